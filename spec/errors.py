"""The base of every error that is told to a user, and those that devices of every level share."""

from __future__ import annotations

__all__ = ["DeviceError", "OutOfCyclesError", "SystolithError"]


class SystolithError(Exception):
    """A refusal. The first line of its text is one sentence that names the culprit and the remedy; what a
    tool printed may follow on further lines.

    The command line prints that sentence and ends with status 2. Any other exception is a defect of the
    project.
    """


class DeviceError(SystolithError):
    """A device that is not the one an image was compiled for, or that stopped with an error."""


class OutOfCyclesError(DeviceError):
    """A core that still runs when its budget of cycles is used up.

    Parameters
    ----------
    cycles : int   the budget
    """

    def __init__(self, cycles: int) -> None:
        self.cycles = cycles
        super().__init__(
            f"the core still runs after {cycles:,} cycles, the budget of this program: give --max-cycles "
            "(in Python max_cycles) to allow more"
        )
