"""Put the tables of a run into a README: ``python benchmarks/update_readme.py results.json README.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from fastrnn.bench import markdown
from fastrnn.bench.results import Run


def main(arguments: list[str]) -> int:
    """Replace what stands between the markers."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        run = Run.load(Path(arguments[0]))
        problem = unfit(run)
        if problem is not None:
            raise ValueError(f"{arguments[0]}: {problem}; {arguments[1]} is as it was")
        markdown.replace_between(Path(arguments[1]), markdown.render(run))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def unfit(run: Run) -> str | None:
    """Why a run is not what a README shows, or None if it may be."""
    if not any(result.ratio is not None for result in run.results):
        return "it has no times of ours beside a peer's" + (", but memory" if run.memory else "")
    if run.interrupted:
        return "it was interrupted"
    return "it was a quick one" if run.quick else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
