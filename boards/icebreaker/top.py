"""The iCEBreaker's top: PLL and serial line."""

from amaranth_boards.icebreaker import ICEBreakerPlatform

from systolith.boards.clocking import Ice40Clock
from systolith.boards.system_top import BoardTop

__all__ = ["Platform", "Top"]

Platform = ICEBreakerPlatform


class Top(BoardTop):
    """The whole design."""

    def clock(self, clock_hz: int) -> Ice40Clock:
        return Ice40Clock("clk12", 12_000_000, clock_hz)
