"""The command line: ``fastrnn``, or ``python -m fastrnn``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from fastrnn import __version__
from fastrnn.commands import CommandError

COMMANDS = ("bench", "demo", "info", "warm")  # each a module of fastrnn.commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What is typed after ``fastrnn``; by default that of this process.

    Returns
    -------
    int
        The exit code: 0, 1 after an error that is told in a sentence, 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        After ``--help`` and ``--version`` (0), and for arguments that are none (2).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except CommandError as error:
        print(f"fastrnn {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nfastrnn {options.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has left, as `head` does; nothing is to be said at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fastrnn", description="A fast recurrent engine for CPUs.")
    parser.add_argument("--version", action="version", version=f"fastrnn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"fastrnn.commands.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
