"""The words of a worker's box: int64 each, its three parts on cache lines of their own."""

import numpy as np

STATE = 0  # one of the four below
ASLEEP, WAKING, WAITING, TAKEN = range(4)
# Written by who has taken it: the job's number, and what to do. A job is one call of a kernel, or a list of them, of
# which all who have it take one after the other: JOB_LIST is the address of the fields below, or 0.
JOB, JOB_FRAME, LOW, HIGH, START, STOP, JOB_LIST = range(16, 23)
DONE = 32  # written by the worker: the number of the last job that is done
WORDS = 48
LOOKS_PER_WAY = 256  # after so many looks for a job a worker gives way: the caller may wait for the same processor
# A list: how many of its calls are taken, how many there are, the address of their frames, the fields of each, and the
# address of (low, high, start, stop) of each.
LIST_TAKEN, LIST_COUNT, LIST_FRAMES, LIST_SIZE, LIST_RANGES = range(5)
LIST_FIELDS = 5
NOBODY = np.empty(0, np.int64)  # the addresses of no boxes
