"""How many threads compute, and the library's own few worker threads.

A call of a layer is cut into tasks, which the calling thread and some workers take one after the other. Workers are
daemon threads, made when they are first needed and then asleep; a forked child makes its own. With one thread, the
default, none is ever made and the tasks run in order in the caller.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from fastrnn.checks import size
from fastrnn.record import lazy

if TYPE_CHECKING:
    from queue import SimpleQueue

Task = Callable[[], None]

RETRY = 0.1  # seconds after which the system is asked again for a thread where it had none

_default = 1
_here: ContextVar[tuple[int, ...]] = ContextVar("fastrnn_threads", default=())  # what the blocks say, innermost last


def set_num_threads(n: int) -> None:
    """Set how many threads one call may use, for all threads of the process.

    Parameters
    ----------
    n : int
        At least 1, which is the default. It counts the calling thread.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer of at least 1.

    See Also
    --------
    threads : The same for a block of code.
    """
    global _default
    _default = size("n", n)


def get_num_threads() -> int:
    """How many threads a call made here may use.

    Returns
    -------
    int
        What the innermost `threads` block says, else what `set_num_threads` has set, else 1.
    """
    here = _here.get()
    return here[-1] if here else _default


def threads(n: int) -> _Block:
    """Set how many threads one call may use within a ``with`` block, for the thread or asyncio task that runs it.

    Parameters
    ----------
    n : int
        At least 1. It counts the calling thread.

    Returns
    -------
    context manager
        It may be used any number of times, one within the other and from several threads at once, and as a decorator.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer of at least 1.

    Examples
    --------
    >>> import fastrnn
    >>> with fastrnn.threads(2):
    ...     fastrnn.get_num_threads()
    2
    """
    return _Block(size("n", n))


class _Block(ContextDecorator):
    """What `threads` returns. It holds nothing of who is inside: blocks know that by their context."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __enter__(self) -> None:
        _here.set((*_here.get(), self._n))

    def __exit__(self, *_: object) -> None:
        _here.set(_here.get()[:-1])

    def __repr__(self) -> str:
        return f"threads({self._n})"


class Cancelled(BaseException):
    """Ends a task whose job another task, or Ctrl-C, has ended. It never leaves `run`."""


def checkpoint() -> None:
    """For backends, between pieces of work of at most some tenths of a second: raises if the job has been cancelled."""
    job = _local.job
    if job is not None and job.cancelled:
        raise Cancelled


def run(tasks: Sequence[Task]) -> None:
    """Run the tasks, each once, on at most `get_num_threads` threads, this one among them.

    The first exception of a task cancels the others and is raised here, as is a KeyboardInterrupt of this thread: in
    both cases not before every worker has left the job. Any number of threads may call this at once; a task that calls
    it runs its tasks in order, in its own thread.
    """
    helpers = min(get_num_threads(), len(tasks)) - 1
    if helpers < 1 or _local.job is not None:
        for task in tasks:
            task()
        return
    job = _Job(tasks)
    try:
        _pool.offer(job, helpers)
        job.work()
    except BaseException as error:  # Ctrl-C between the lines above
        job.fail(error)
    job.finish(_pool)
    if job.error is not None:
        raise job.error


def new_thread(work: Callable[..., None], given: tuple[Any, ...], name: str) -> threading.Thread | None:
    """A daemon thread that does some work; None where the system has no thread left, and for `RETRY` after that.

    Containers have limits. Whoever wanted it goes on with those there are. To ask takes as long as a short call, so not
    every call does; some do, as the shortage may be over.
    """
    global _none_until
    if time.monotonic() < _none_until:
        return None
    thread = threading.Thread(target=work, args=given, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        _none_until = time.monotonic() + RETRY
        return None
    return thread


_none_until = 0.0  # of `time.monotonic`: when to ask for a thread again


class _Local(threading.local):
    job: _Job | None = None


_local = _Local()


class _Job:
    """The tasks of one `run`, and who is at work on them."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = deque(tasks)
        self.cancelled = False
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._inside = 0  # workers, the caller not counted
        self._closed = False
        self._empty = threading.Event()

    def work(self) -> None:
        """Take tasks until none is left."""
        _local.job = self
        try:
            while not self.cancelled:
                try:
                    task = self.tasks.popleft()
                except IndexError:
                    break
                task()
        except Cancelled:
            pass
        except BaseException as error:
            self.fail(error)
        finally:
            _local.job = None

    def fail(self, error: BaseException) -> None:
        """Cancel what is left; the first error is the one to raise, but an interrupt goes before it."""
        if self.error is None or not isinstance(error, Exception):
            self.error = error
        self.cancelled = True

    def help(self) -> None:
        """A worker's part: take tasks, unless the caller has already gone through all of them."""
        with self._lock:
            if self._closed:
                return
            self._inside += 1
        try:
            self.work()
        finally:
            with self._lock:
                self._inside -= 1
                if self._closed and self._inside == 0:
                    self._empty.set()

    def finish(self, pool: _Pool) -> None:
        """Let no more workers in and wait until all are out, whatever interrupts the wait."""
        while True:
            try:
                with self._lock:
                    self._closed = True
                    if self._inside == 0:
                        break
                while not self._empty.wait(0.1):
                    if pool is not _pool:  # this is a forked child, in which the workers do not exist
                        return
                break
            except BaseException as error:
                self.fail(error)
        self.tasks.clear()  # a ticket in the queue may keep the job for long, but no longer its arrays


class _Pool:
    """Worker threads and the queue they wait at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers = 0
        self._promised = 0  # tickets that are given out and not yet served

    @lazy
    def _tickets(self) -> SimpleQueue[_Job]:
        from queue import SimpleQueue  # takes a millisecond to import, and one thread needs none

        return SimpleQueue()

    def offer(self, job: _Job, helpers: int) -> None:
        """Wake ``helpers`` workers for a job; make those that are missing, as far as there are threads for them."""
        with self._lock:
            tickets = self._tickets  # made here, under the lock: there is one
            limit = max(helpers, (os.cpu_count() or 1) - 1)
            wanted = min(self._promised + helpers, limit)
            while self._workers < wanted and new_thread(self._serve, (), f"fastrnn-{self._workers}"):
                self._workers += 1
            helpers = min(helpers, self._workers)  # a ticket that nobody takes would stay, with its job
            self._promised += helpers
        for _ in range(helpers):
            tickets.put(job)

    def _serve(self) -> None:
        while True:
            job = self._tickets.get()
            try:
                job.help()
            finally:
                del job
                with self._lock:
                    self._promised -= 1


_pool = _Pool()


class HasLock(Protocol):
    """What `renew_after_fork` takes."""

    _lock: Any


_owners: WeakKeyDictionary[HasLock, Callable[[], Any]] = WeakKeyDictionary()


def renew_after_fork(owner: HasLock, make: Callable[[], Any]) -> None:
    """Give the object a ``_lock``, and a new one in every forked child.

    The old one may be held there by a thread that is not there.
    """
    owner._lock = make()
    _owners[owner] = make


def _after_fork() -> None:
    """In a forked child: no worker has survived."""
    global _pool, _none_until
    _pool, _none_until = _Pool(), 0.0
    _local.job = None
    for owner, make in list(_owners.items()):
        owner._lock = make()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
