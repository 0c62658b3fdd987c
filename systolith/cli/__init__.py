"""The command line, `systolith COMMAND ...`; `main` runs it.

Nothing heavy is imported here, so that Ctrl-C is in order from the first moment.
"""

from __future__ import annotations

from systolith.cli.interrupt import interruptible, told

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 on success, 1 where `verify` finds a difference, 2 on a refused input, with one sentence on standard
    error, 130 after Ctrl-C. Without `arguments` this is the process of a command: see `interruptible`.
    """
    try:
        if arguments is not None:
            return _execute(arguments)
        with interruptible():
            return _execute(None)
    except KeyboardInterrupt:
        return told()


def _execute(arguments: list[str] | None) -> int:
    from systolith.cli.program import execute

    return execute(arguments)
