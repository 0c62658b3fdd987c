"""Weights, parameters and tables: where each lies in external memory and on chip.

A first, dry walk over the model only collects what is asked for. From that `plan` decides what stays on chip
(loaded once by the load stream) and what is streamed through a ring, loaded by the run stream just before
use.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from systolith.compiler.base.errors import AllocationError
from systolith.spec.arch import ArchConfig
from systolith.spec.costs import matrix_cycles
from systolith.spec.isa import Instr, Region, Space, isa_for
from systolith.spec.numerics import TABLE_SIZE

__all__ = ["Constants"]


@dataclass
class _Entry:
    data: bytes
    offset: int
    #: Array cycles spent on this block, and number of uses, counted in the dry walk.
    cycles: int = 0
    uses: int = 0
    resident: int | None = None
    streamed: int | None = None


@dataclass
class Constants:
    """All constants of one program.

    `use` returns the byte address in the SRAM at which a constant stands, after emitting a LOAD where it is
    streamed. `offset` is relative to the start of the constants in the PROGRAM region until `base` is known.
    """

    arch: ArchConfig
    entries: dict[tuple[Space, Hashable], _Entry] = field(default_factory=dict)
    blob: bytearray = field(default_factory=bytearray)
    base: int = 0
    dry: bool = True
    _ring: dict[Space, list] = field(default_factory=dict)
    _latest: dict[Space, _Entry] = field(default_factory=dict)
    _by_data: dict[tuple[Space, bytes], _Entry] = field(default_factory=dict)

    def sizes(self) -> dict[Space, int]:
        """Capacity of each SRAM that holds constants."""
        return {
            Space.WEIGHT: self.arch.weight_bytes,
            Space.PARAM: self.arch.param_bytes,
            Space.TABLE: self.arch.table_bytes,
        }

    def unit(self, space: Space) -> int:
        """Addresses are multiples of this many bytes, and of the bus width."""
        return {
            Space.WEIGHT: self.arch.tile_bytes,
            Space.PARAM: self.arch.param_line_bytes,
            Space.TABLE: TABLE_SIZE,
        }[space]

    def add(self, space: Space, key: Hashable, data: bytes) -> None:
        """Make a constant known; equal keys are the same constant, and so are equal bytes for the same
        memory."""
        if (space, key) in self.entries:
            return
        entry = self._by_data.get((space, data))
        if entry is None:
            entry = self._by_data[space, data] = _Entry(data, len(self.blob))
            self.blob += data + bytes(-len(data) % 16)
        self.entries[space, key] = entry

    def use(self, space: Space, key: Hashable, emit) -> int:
        """Address of the constant on chip; calls ``emit(instr)`` where it must be loaded first."""
        entry = self.entries[space, key]
        if self.dry:
            entry.uses += 1
            self._latest[space] = entry
            return 0
        if entry.resident is not None:
            return entry.resident
        if entry.streamed is None:
            ring = self._ring[space]
            low, high, next_free = ring[0], ring[1], ring[2]
            size = self._room(space, entry)
            start = next_free if next_free + size <= high else low
            # What the new constant overwrites is no longer there.
            for other, other_start, other_size in list(ring[3]):
                if start < other_start + other_size and other_start < start + size:
                    other.streamed = None
                    ring[3].remove((other, other_start, other_size))
            entry.streamed, ring[2] = start, start + size
            ring[3].append((entry, start, size))
            emit(self.load(space, entry, start))
        return entry.streamed

    def begin(self) -> None:
        """A run stream begins, or is lowered anew: what others streamed through the rings is not there."""
        for entry in self._by_data.values():
            entry.streamed = None
        for ring in self._ring.values():
            ring[2], ring[3] = ring[0], []

    def spend(self, instr: Instr) -> None:
        """Note in the dry walk that a MATMUL uses the latest weights."""
        if self.dry and instr.mnemonic == "MATMUL":
            self._latest[Space.WEIGHT].cycles += matrix_cycles(instr, self.arch)

    def load(self, space: Space, entry: _Entry, address: int) -> Instr:
        """The LOAD that brings one constant on chip."""
        return isa_for(self.arch).make(
            "LOAD",
            space=space,
            region=Region.PROGRAM,
            offset=self.base + entry.offset,
            bytes=len(entry.data) + -len(entry.data) % self.arch.bus_bytes,
            base=address,
        )

    def plan(self) -> list[tuple[Space, _Entry, int]]:
        """Decide what is resident; returns (space, entry, address) of each for the load stream. Ends the dry
        walk.

        Streamed are those that are used least often, and of these what the array uses for the most cycles per
        byte: the load of the next hides behind it.

        Raises
        ------
        AllocationError   If one constant does not fit its SRAM.
        """
        resident = []
        for space, capacity in self.sizes().items():
            entries = [entry for (where, _), entry in self._by_data.items() if where is space]
            rooms = [self._room(space, entry) for entry in entries]
            largest = max(rooms, default=0)
            if largest > capacity:
                raise AllocationError(
                    "allocate",
                    "",
                    f"one block of constants needs {largest} bytes of {space.name} SRAM, the architecture "
                    f"has {capacity}",
                    "use an architecture with a larger SRAM",
                )
            ring = 0 if sum(rooms) <= capacity else min(2 * largest, capacity)
            unit = self.unit(space)
            ring += -ring % unit
            address = 0
            placed = list(zip(entries, rooms, strict=True))
            if ring:
                placed.sort(key=lambda item: (-item[0].uses, item[0].cycles / item[1]))
            for entry, room in placed:
                if address + room <= capacity - ring:
                    entry.resident = address
                    resident.append((space, entry, address))
                    address += room
            self._ring[space] = [address + -address % unit, capacity, address + -address % unit, []]
        self.dry = False
        return resident

    def _room(self, space: Space, entry: _Entry) -> int:
        step = max(self.unit(space), self.arch.bus_bytes)
        return len(entry.data) + -len(entry.data) % step
