"""What the lowering rules share: the program under construction, tensor placement, and constants."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import prod

import numpy as np

from systolith.compiler.base.arena import Arena
from systolith.compiler.base.constants import Constants
from systolith.compiler.base.errors import AllocationError, UnsupportedError
from systolith.compiler.base.layout import Layout
from systolith.compiler.base.limits import MAX_INSTRUCTIONS
from systolith.reference.graph import QGraph, QNode, Requant
from systolith.reference.params import pack_params
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Format, Instr, Isa, IsaError, Region, Space, isa_for
from systolith.spec.memory import FULL_RATE, MemoryTiming
from systolith.spec.numerics import TABLE_SIZE

__all__ = ["Chain", "Lowering", "Place", "Residence"]

_VECTOR_UNIT = "the vector unit (sums, products, maxima, copies, recurrent cells)"
#: What a core without an operand lacks.
_LACKS = {
    "dest": _VECTOR_UNIT,
    "table": "tables of activation functions",
    "slot": "tables of activation functions",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor lies, dense: an address of the activation SRAM, or an offset in the DATA region."""

    address: int
    bytes: int
    layout: Layout
    external: bool = False


@dataclass(slots=True, kw_only=True)
class Residence:
    """A box of a tensor in the activation SRAM, until something else takes its place.

    Parameters
    ----------
    name : str
    address : int               of its first byte; it is dense
    order : tuple of int        the tensor's axes in memory order
    extents : tuple of int      the tensor in memory order, as the rule that placed it sees it: of the same
              elements
    box : tuple of range        the part that is here, per extent
    first, last : int           instructions of the run stream, `last` excluded; None: to the end
    """

    name: str
    address: int
    order: tuple[int, ...]
    extents: tuple[int, ...]
    box: tuple[range, ...]
    first: int
    last: int | None = None

    @property
    def bytes(self) -> int:
        """How many there are."""
        return prod(map(len, self.box))

    def values(self, tensor: np.ndarray) -> np.ndarray:
        """The bytes that must stand here, as they lie."""
        laid = tensor.transpose(self.order).reshape(self.extents)
        return laid[np.ix_(*self.box)].ravel()

    def element(self, byte: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Index in the tensor, of this shape, of one of the bytes."""
        local = np.unravel_index(byte, tuple(map(len, self.box)))
        index = [r[int(i)] for r, i in zip(self.box, local, strict=True)]
        flat = int(np.ravel_multi_index(index, self.extents))
        along = np.unravel_index(flat, [shape[axis] for axis in self.order])
        return tuple(int(along[self.order.index(axis)]) for axis in range(len(shape)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """An ADD or MUL that takes its operand a straight from OUTPUT.

    Parameters
    ----------
    mnemonic : str
    other : str               name of the other operand, which lies like the result
    operands : dict           zero points, multipliers, shift, bounds and table
    """

    mnemonic: str
    other: str
    operands: dict[str, int]


@dataclass
class Lowering:
    """One walk over the graph.

    Parameters
    ----------
    graph, arch : what is compiled, and for what
    constants : Constants     shared between the dry and the real walk
    io_offsets : dict         offset of each input and output in the DATA region
    act, scratch : Arena      the activation SRAM; the part of the DATA region that is not input or output
    external : frozenset      tensors that live in the DATA region and come on chip piece by piece
    memory : MemoryTiming     for which the program is made
    part : int                which core step of the plan the graph is
    states : dict             offset, in the DATA region, of what a node leaves for the next run
    residences : list         what lay where in the activation SRAM, and when
    outside : list            what lay where in the DATA region
    skipped : dict            per node, how many tiles of each tile block are left out because they are
              all zero
    skipped_macs : dict       per node, their multiply-accumulates
    """

    graph: QGraph
    arch: ArchConfig
    constants: Constants
    io_offsets: dict[str, int]
    act: Arena
    scratch: Arena
    external: frozenset[str] = frozenset()
    memory: MemoryTiming = FULL_RATE
    states: dict[str, int] = field(default_factory=dict)
    part: int = 0
    instrs: list[Instr] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    residences: list[Residence] = field(default_factory=list)
    outside: list[tuple[str, Place]] = field(default_factory=list)
    skipped: dict[int, dict[Hashable, int]] = field(default_factory=dict)
    skipped_macs: dict[int, int] = field(default_factory=dict)
    node: QNode | None = None
    owner: int = -1
    chain: Chain | None = None
    chained_output: str | None = None
    _acc: int = 0
    _open: list[Residence] = field(default_factory=list)

    @property
    def result(self) -> str:
        """The tensor that the current node writes: its own output, or that of the node chained to it."""
        return self.chained_output or self.node.output

    @property
    def isa(self) -> Isa:
        """The instruction set."""
        return isa_for(self.arch)

    # -- program
    # ----------------------------------------------------------------------------------------------------
    def emit(self, mnemonic: str, **operands: int) -> None:
        """Append an instruction of the current node. Address operands may be negative or too large: they are
        taken modulo the field."""
        for f in self.format(mnemonic, operands).fields:
            if (
                f.name in operands
                and f.unit == "bytes"
                and not f.signed
                and not f.bias
                and f.name not in ("row_bytes", "offset")
            ):
                operands[f.name] = int(operands[f.name]) % (1 << f.bits)
        try:
            instr = self.isa.make(mnemonic, **operands)
        except IsaError as error:
            raise UnsupportedError(
                "lower",
                self.node.name if self.node else "",
                f"it is too large for architecture {self.arch.name!r}: {error}",
                "use an architecture with wider operands, or a smaller layer",
            ) from error
        self.constants.spend(instr)
        self.append(instr)

    def format(self, mnemonic: str, operands: dict[str, int] | None = None) -> Format:
        """The format of an instruction.

        Raises
        ------
        UnsupportedError   If the core lacks the unit that executes it so.
        """
        found = self.isa.by_mnemonic.get(mnemonic)
        lacks = _VECTOR_UNIT if found is None else None
        for name, value in found.fixed if found else ():
            if (operands or {}).get(name, value) != value:
                lacks = _LACKS[name]
        if lacks:
            raise UnsupportedError(
                "lower",
                self.node.name,
                f"it needs {lacks}, which architecture {self.arch.name!r} does not have",
                "use an architecture that is not compact, or leave the node out of the model",
            )
        return found

    def append(self, instr: Instr) -> None:
        """Append a finished instruction of the current node.

        Raises
        ------
        AllocationError   If the program gets longer than `MAX_INSTRUCTIONS`.
        """
        if len(self.instrs) >= MAX_INSTRUCTIONS:
            raise AllocationError(
                "lower",
                self.node.name if self.node else "",
                f"the program would have more than {MAX_INSTRUCTIONS:,} instructions",
                "use a larger architecture, smaller inputs or a smaller batch",
            )
        self.instrs.append(instr)
        self.owners.append(self.owner)

    @property
    def word_cycles(self) -> int:
        """Cycles in which memory delivers an instruction."""
        return -(-self.isa.word_bytes // self.memory.rate(self.arch))

    # -- zero weights
    # ---------------------------------------------------------------------------------------------------
    def worth(self, vectors: int) -> int:
        """How many tiles in a row must be all zero for it to take less time to begin another MATMUL behind
        them."""
        return self.word_cycles // max(vectors, self.arch.weight_load_cycles) + 1

    def skip(self, key: Hashable, tiles: int, macs: int) -> None:
        """Note that a tile block of the current node does without so many tiles, which are all zero."""
        if tiles:
            self.skipped.setdefault(self.owner, {})[key] = tiles
            self.skipped_macs[self.owner] = self.skipped_macs.get(self.owner, 0) + macs

    # -- placement
    # ----------------------------------------------------------------------------------------------------
    def allocate(self, size: int, what: str) -> int:
        """Address of `size` free bytes of activation SRAM.

        Raises
        ------
        AllocationError   If no free range is large enough.
        """
        address = self.act.allocate(size)
        if address is None:
            raise self.no_room(f"{what} needs {size} bytes of activation SRAM")
        return address

    def no_room(self, what: str) -> AllocationError:
        """The error for something that does not fit the activation SRAM."""
        return AllocationError(
            "allocate",
            self.node.name if self.node else "",
            f"{what}, and of {self.arch.act_bytes} only {self.act.largest} are free in one piece",
            "use an architecture with a larger act_bytes",
        )

    def place(self, name: str, layout: Layout) -> Place:
        """Allocate a tensor where it belongs: on chip, or in external memory."""
        size = int(np.prod(self.graph.tensors[name].shape, dtype=np.int64))
        external = name in self.external
        if not external:
            address = self.allocate(size, f"tensor {name!r}")
        elif name in self.graph.outputs:
            address = self.io_offsets[name]
        else:
            address = self.scratch.allocate(size)
        self.places[name] = place = Place(address=address, bytes=size, layout=layout, external=external)
        if external:
            self.outside.append((name, place))
        else:
            self.reside(name, address, layout.order)
        return place

    def reside(
        self,
        name: str,
        address: int,
        order: tuple[int, ...],
        extents: tuple[int, ...] = (),
        box: tuple[range, ...] = (),
        *,
        first: int | None = None,
    ) -> None:
        """The instructions from `first` (None: those that follow) write a tensor, or a box of it, to this
        address; see `Residence`."""
        extents = extents or tuple(self.graph.tensors[name].shape[axis] for axis in order)
        residence = Residence(
            name=name,
            address=address,
            order=order,
            extents=extents,
            box=box or tuple(map(range, extents)),
            first=len(self.instrs) if first is None else first,
        )
        for other in self._open:
            if other.address < address + residence.bytes and address < other.address + other.bytes:
                other.last = residence.first
        self._open = [other for other in self._open if other.last is None] + [residence]
        self.residences.append(residence)

    def drop(self, name: str) -> None:
        """A tensor has had its last reader."""
        place = self.places.pop(name)
        if any(
            (other.address, other.external) == (place.address, place.external)
            for other in self.places.values()
        ):
            return
        if not place.external:
            self.act.release(place.address, place.bytes)
        elif place.address >= self.scratch.first:
            self.scratch.release(place.address, place.bytes)

    def accumulators(self, entries: int) -> int:
        """First of `entries` accumulators; successive calls go round, so that OUTPUT drains one box while
        the array fills the next."""
        if self._acc + entries > self.arch.acc_depth:
            self._acc = 0
        first = self._acc
        self._acc += entries
        return first

    # -- constants
    # ----------------------------------------------------------------------------------------------------
    def weights(self, key: Hashable, make) -> int:
        """First tile of a tile block; ``make()`` gives int8 [tiles, R, C]."""
        key = (self.part, self.node.name, key)
        if self.constants.dry and (Space.WEIGHT, key) not in self.constants.entries:
            self.constants.add(Space.WEIGHT, key, self._tile_bytes(make()))
        return self.constants.use(Space.WEIGHT, key, self.append) // self.arch.tile_bytes

    def params(self, key: Hashable, bias: np.ndarray, mult: np.ndarray, shift: np.ndarray) -> int:
        """Entry of the parameter SRAM with these channels."""
        key = (self.part, self.node.name, key)
        if self.constants.dry:
            self.constants.add(
                Space.PARAM, key, pack_params(self.arch.cols, bias=bias, mult=mult, shift=shift)
            )
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
        self.emit(
            "LOAD",
            space=Space.ACT,
            region=Region.PROGRAM,
            offset=self.constants.base + self.constants.entries[Space.ACT, key].offset,
            bytes=len(raw),
            base=address,
        )
        return address, len(raw)

    # -- helpers
    # ------------------------------------------------------------------------------------------------------
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
