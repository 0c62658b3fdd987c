"""The command line, `systolith COMMAND ...`; `main` runs it."""

from __future__ import annotations

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 on success, 1 where `verify` finds a difference, 2 on a refused input, with one sentence on standard
    error.
    """
    from systolith.cli.program import execute

    return execute(arguments)
