"""What the lowering rules share: the program under construction, tensor placement, and constants."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from systolith.compiler.constants import Constants
from systolith.compiler.errors import AllocationError
from systolith.compiler.layout import Layout
from systolith.reference.graph import QGraph, QNode, Requant
from systolith.reference.params import pack_params
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Instr, Isa, Region, Space, isa_for
from systolith.spec.numerics import TABLE_SIZE

__all__ = ["Chain", "Lowering", "Place", "Residence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tensor in the activation SRAM."""

    address: int
    bytes: int
    layout: Layout


@dataclass(slots=True, kw_only=True)
class Residence:
    """How long a tensor stays in its place: for instructions `first` up to, not including, `last` of the run stream."""

    name: str
    place: Place
    first: int
    last: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """An ADD or MUL that takes its operand a straight from OUTPUT.

    Parameters
    ----------
    mnemonic : str
    address : int             of the other operand, which lies like the result
    operands : dict           zero points, multipliers, shift, bounds and table
    """

    mnemonic: str
    address: int
    operands: dict[str, int]


@dataclass
class Lowering:
    """One pass over the graph.

    Parameters
    ----------
    graph, arch : what is compiled, and for what
    constants : Constants     shared between the dry and the real pass
    """

    graph: QGraph
    arch: ArchConfig
    constants: Constants
    instrs: list[Instr] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    residences: list[Residence] = field(default_factory=list)
    node: QNode | None = None
    owner: int = -1
    chain: Chain | None = None
    chained_output: str | None = None
    _free: list[tuple[int, int]] = field(default_factory=list)
    _acc: int = 0
    _scratch: int = 0

    def __post_init__(self) -> None:
        self._free = [(0, self.arch.act_bytes)]
        self._block = 0

    @property
    def result(self) -> str:
        """The tensor that the current node writes: its own output, or that of the node chained to it."""
        return self.chained_output or self.node.output

    @property
    def isa(self) -> Isa:
        """The instruction set."""
        return isa_for(self.arch)

    # -- program ----------------------------------------------------------------------------------------------------
    def emit(self, mnemonic: str, **operands: int) -> None:
        """Append an instruction of the current node. Address operands may be negative or too large: they are taken modulo the field."""
        fields = {f.name: f for f in self.isa.by_mnemonic[mnemonic].fields}
        for name, value in operands.items():
            f = fields[name]
            if f.unit == "bytes" and not f.signed and not f.bias and name not in ("row_bytes", "offset"):
                operands[name] = int(value) % (1 << f.bits)
        self.append(self.isa.make(mnemonic, **operands))

    def append(self, instr: Instr) -> None:
        """Append a finished instruction of the current node."""
        self.instrs.append(instr)
        self.owners.append(self.owner)

    # -- activation SRAM ----------------------------------------------------------------------------------------------
    def allocate(self, size: int, what: str) -> int:
        """Address of `size` free bytes.

        Blocks are tried in turn, so that what is written and what is read tend to lie in different ones.

        Raises
        ------
        AllocationError   If no free range is large enough.
        """
        size = self._rounded(size)
        block = self.arch.act_block_bytes
        for attempt in range(self.arch.act_blocks):
            start = (self._block + attempt) % self.arch.act_blocks * block
            for low, high in self._free:
                address = max(low, start)
                if address < start + block and address + size <= high:
                    self._block = (address + size - 1) // block + 1
                    return self._take(address, size)
        for low, high in self._free:
            if low + size <= high:
                return self._take(low, size)
        raise AllocationError("allocate", self.node.name if self.node else "", f"{what} needs {size} bytes of activation SRAM, and of "
                              f"{self.arch.act_bytes} only {max((h - lo for lo, h in self._free), default=0)} are free in one piece",
                              "use an architecture with a larger act_bytes")

    def release(self, address: int, size: int) -> None:
        """Give bytes back."""
        for residence in self.residences:
            if residence.place.address == address and residence.last is None:
                residence.last = len(self.instrs)
        size = self._rounded(size)
        ranges = sorted([*self._free, (address, address + size)])
        merged = [ranges[0]]
        for low, high in ranges[1:]:
            if low == merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free = merged

    def place(self, name: str, layout: Layout) -> Place:
        """Allocate a tensor."""
        size = int(np.prod(self.graph.tensors[name].shape, dtype=np.int64))
        place = Place(address=self.allocate(size, f"tensor {name!r}"), bytes=size, layout=layout)
        self.settle(name, place)
        return place

    def settle(self, name: str, place: Place) -> None:
        """The instructions that follow write this tensor here."""
        self.places[name] = place
        self.residences.append(Residence(name=name, place=place, first=len(self.instrs)))

    def drop(self, name: str) -> None:
        """A tensor has had its last reader."""
        place = self.places.pop(name)
        if all(other.address != place.address for other in self.places.values()):
            self.release(place.address, place.bytes)

    def accumulators(self, entries: int) -> int:
        """First of `entries` accumulators; successive calls go round, so that OUTPUT drains one tile while the array fills the next."""
        if self._acc + entries > self.arch.acc_depth:
            self._acc = 0
        first = self._acc
        self._acc += entries
        return first

    def scratch(self, size: int) -> int:
        """Offset of `size` bytes in the scratch part of the DATA region (relative to its start)."""
        offset = self._scratch
        self._scratch += size + -size % 16
        return offset

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch used so far."""
        return self._scratch

    # -- constants ----------------------------------------------------------------------------------------------------
    def weights(self, key: Hashable, make) -> int:
        """First tile of a block of weights; ``make()`` gives int8 [tiles, R, C]."""
        key = (self.node.name, key)
        if self.constants.dry:
            self.constants.add(Space.WEIGHT, key, self._tile_bytes(make()))
        return self.constants.use(Space.WEIGHT, key, self.append) // self.arch.tile_bytes

    def params(self, key: Hashable, bias: np.ndarray, mult: np.ndarray, shift: np.ndarray) -> int:
        """Entry of the parameter SRAM with these channels."""
        key = (self.node.name, key)
        if self.constants.dry:
            self.constants.add(Space.PARAM, key, pack_params(self.arch.cols, bias=bias, mult=mult, shift=shift))
        return self.constants.use(Space.PARAM, key, self.append) // self.arch.param_line_bytes

    def table(self, table: np.ndarray | None) -> dict[str, int]:
        """Operands `table` and `slot` of an instruction."""
        if table is None:
            return {"table": 0, "slot": 0}
        data = table.astype(np.int8).tobytes()
        self.constants.add(Space.TABLE, data, data)
        return {"table": 1, "slot": self.constants.use(Space.TABLE, data, self.append) // TABLE_SIZE}

    def constant(self, data: np.ndarray) -> tuple[int, int]:
        """Load int8 data from the PROGRAM region into freshly allocated activation SRAM: (address, bytes)."""
        raw = np.ascontiguousarray(data, dtype=np.int8).tobytes()
        key = (None, raw)
        # Space.ACT constants are never resident: they live where activations live.
        self.constants.add(Space.ACT, key, raw)
        address = self.allocate(len(raw), "a constant operand")
        self.emit("LOAD", space=Space.ACT, region=Region.PROGRAM, offset=self.constants.base + self.constants.entries[Space.ACT, key].offset,
                  bytes=len(raw), base=address)
        return address, len(raw)

    # -- helpers ------------------------------------------------------------------------------------------------------
    def output_operands(self, requant: Requant) -> dict[str, int]:
        """The operands of OUTPUT that follow from a Requant."""
        return {"zero": requant.zero, "low": requant.low, "high": requant.high, **self.table(requant.table)}

    def _tile_bytes(self, tiles: np.ndarray) -> bytes:
        arch = self.arch
        order = np.empty(arch.tile_bytes, np.int64)
        for r in range(arch.rows):
            for c in range(arch.cols):
                order[arch.weight_offset(r, c)] = r * arch.cols + c
        return tiles.reshape(len(tiles), -1)[:, order].astype(np.int8).tobytes()

    def _rounded(self, size: int) -> int:
        return max(size, 1) + -max(size, 1) % self.arch.act_width

    def _take(self, address: int, size: int) -> int:
        free = []
        for low, high in self._free:
            if low <= address < high:
                free += [(low, address), (address + size, high)]
            else:
                free.append((low, high))
        self._free = [(low, high) for low, high in free if low < high]
        return address
