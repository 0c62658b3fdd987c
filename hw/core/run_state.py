"""What a core as a whole is doing."""

from amaranth.lib import enum

__all__ = ["RunState"]


class RunState(enum.Enum, shape=3):
    """States of the control of both kinds of core."""

    #: Nothing runs; DONE and ERROR say how the last stream ended.
    IDLE = 0
    #: One cycle: everything but the CSRs is reset; a stream follows.
    CLEAR = 1
    #: One cycle: fetch begins.
    BEGIN = 2
    RUN = 3
    #: An error has stopped the stream: bus transactions are still under way.
    FAIL = 4
    #: RESET was written: bus transactions are still under way.
    ABORT = 5
    #: One cycle: everything but the CSRs is reset; IDLE follows.
    WIPE = 6
