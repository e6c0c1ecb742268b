"""Threads of Python that each step a session of their own, as a server has them: steps a second, all threads together.

python benchmarks/sessions.py [SECONDS]

Each session is one LSTM, one row, one computing thread. A contender runs in a process of its own; all contenders take
turns, and of two turns the better one counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

from fastrnn.bench import workload
from fastrnn.bench.cases import Case
from fastrnn.bench.contenders import NAMES, contender
from fastrnn.bench.contenders.base import Prepared
from fastrnn.bench.process import environment

SIZES = (32, 128, 512)
SESSIONS = (1, 2)
TURNS = 2
CALLS = 20  # between two looks at the clock


def rate(sessions: list[Prepared], seconds: float) -> float:
    """Steps a second of all sessions together, each in a thread of its own."""
    gate = threading.Barrier(len(sessions))
    rates: list[float] = []

    def serve(session: Prepared) -> None:
        step, count = session.call, 0
        with session.context():
            step()
            gate.wait()
            begin = now = time.perf_counter()
            while now < begin + seconds:
                for _ in range(CALLS):
                    step()
                count += CALLS
                now = time.perf_counter()
        rates.append(count / (now - begin))

    threads = [threading.Thread(target=serve, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def serve(name: str, seconds: float) -> None:
    """In a contender's process: every size and number of sessions, as JSON."""
    who = contender(name)
    who.pin(1)
    found = {}
    for hidden in SIZES:
        case = Case("lstm", "step", 1, 1, hidden, hidden)
        if who.unsupported(case):
            continue
        work = workload.make(case)
        for count in SESSIONS:
            ways = who.variants(work, 1).values()
            found[f"{hidden} {count}"] = max(rate([prepare() for _ in range(count)], seconds) for prepare in ways)
    print(json.dumps(found))


def measure(name: str, seconds: float) -> dict[str, float]:
    """What `serve` has found in a process of its own."""
    command = [sys.executable, __file__, str(seconds), name]
    done = subprocess.run(command, env=environment(name, 1), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {(done.stderr.strip().splitlines() or ['it broke'])[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(seconds: float) -> None:
    """Measure all that are here, and print a table."""
    names = [name for name in NAMES if contender(name).unavailable() is None]
    best: dict[str, dict[str, float]] = {name: {} for name in names}
    for _ in range(TURNS):
        for name in names:
            for key, steps in measure(name, seconds).items():
                best[name][key] = max(steps, best[name].get(key, 0.0))
    columns = [f"{hidden} {count}" for hidden in SIZES for count in SESSIONS]
    print(f"{os.cpu_count()} processors; thousands of steps a second, LSTM, one row a session")
    print("| H, sessions | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in names:
        figures = [f"{best[name][key] / 1e3:.1f}" if key in best[name] else "-" for key in columns]
        print(f"| {contender(name).title} | " + " | ".join(figures) + " |")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        serve(sys.argv[2], float(sys.argv[1]))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.5)
