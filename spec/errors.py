"""The base of every error that is told to a user."""

from __future__ import annotations

__all__ = ["SystolithError"]


class SystolithError(Exception):
    """A refusal. The first line of its text is one sentence that names the culprit and the remedy; what a
    tool
    printed may follow on further lines.

    The command line prints that sentence and ends with status 2. Any other exception is a defect of the
    project.
    """
