"""First-fit allocation of address ranges: the activation SRAM, and the scratch part of external memory."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Arena"]


@dataclass
class Arena:
    """Free ranges of a memory.

    Parameters
    ----------
    first, end : int   byte addresses that may be handed out, `end` excluded
    unit : int         sizes are rounded up to this many bytes
    block : int        or 0; blocks of the memory are tried in turn, so that successive ranges tend to lie in
            different ones
    """

    first: int
    end: int
    unit: int
    block: int = 0
    #: End of the highest range ever handed out.
    used: int = 0
    _free: list[tuple[int, int]] = field(default_factory=list)
    _turn: int = 0

    def __post_init__(self) -> None:
        self._free = [(self.first, self.end)]
        self.used = self.first

    @property
    def largest(self) -> int:
        """Bytes of the largest free range."""
        return max((high - low for low, high in self._free), default=0)

    def allocate(self, size: int) -> int | None:
        """Address of `size` free bytes, or None where no range is large enough."""
        size = self._rounded(size)
        if self.block:
            blocks = -(-self.end // self.block)
            for attempt in range(blocks):
                start = (self._turn + attempt) % blocks * self.block
                for low, high in self._free:
                    address = max(low, start)
                    if address < start + self.block and address + size <= high:
                        self._turn = (address + size - 1) // self.block + 1
                        return self._take(address, size)
        for low, high in self._free:
            if low + size <= high:
                return self._take(low, size)
        return None

    def allocate_all(self, sizes: list[int]) -> list[int] | None:
        """Addresses of several ranges, or None (and nothing taken) where they do not all fit."""
        before = list(self._free), self._turn, self.used
        addresses = [self.allocate(size) for size in sizes]
        if None in addresses:
            self._free, self._turn, self.used = before
            return None
        return addresses

    def release(self, address: int, size: int) -> None:
        """Give a range back."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._free, (address, address + self._rounded(size))]):
            if merged and low == merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free = merged

    def _rounded(self, size: int) -> int:
        return max(size, 1) + -max(size, 1) % self.unit

    def _take(self, address: int, size: int) -> int:
        free: list[tuple[int, int]] = []
        for low, high in self._free:
            if low <= address < high:
                free += [(low, address), (address + size, high)]
            else:
                free.append((low, high))
        self._free = [(low, high) for low, high in free if low < high]
        self.used = max(self.used, address + size)
        return address
