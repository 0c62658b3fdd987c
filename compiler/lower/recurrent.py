"""Recurrent layers: the input's share of all steps as one dense product, then step by step the state's share
and the cells.

The sums of both shares meet in the accumulators: MATMUL leaves the input's share of a run of steps there, and
each step adds the state's share to its own entries and releases them. The gates of a block of C units follow
one another, so that their cell is updated while the array works on the next block.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from systolith.compiler.base.layout import row_major
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.moving import move
from systolith.compiler.lower.operands import bring, materialise
from systolith.compiler.lower.registry import Order, Temporary, lowering
from systolith.compiler.lower.tile_blocks import kept_runs
from systolith.compiler.lower.vector import copy
from systolith.reference.recurrent import Recurrent
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Destination, Region, Space

__all__ = ["lower_recurrent"]


@lowering(Recurrent, order=Order.ROW_MAJOR)
def lower_recurrent(low: Lowering, op: Recurrent) -> Temporary:
    """One layer; x and the result lie row-major. Returns ranges of the activation SRAM to release.

    Raises
    ------
    AllocationError   If the sequence or its result does not fit the activation SRAM.
    """
    x, y = low.places[low.node.inputs[0]], low.places[low.result]
    if x.external or y.external:
        raise low.no_room(
            f"the sequence of {low.node.op_type} is needed whole, {x.bytes} bytes and {y.bytes} bytes of "
            f"results"
        )
    steps, batch, _ = low.graph.tensors[low.node.inputs[0]].shape
    temporary, plan = [], _planned(low, op, steps)
    for name in low.node.inputs[1:]:
        order = row_major(low.graph.tensors[name].shape)
        materialise(low, name, order, temporary)
        bring(low, name, order)
    for n in range(batch):
        order = range(steps)[:: -1 if op.reverse else 1]
        # Two ranges, so that the cell finds its state in another block of the SRAM than the one that the
        # array reads.
        hidden, state = (_initial(low, op, n, part) for part in (range(1), range(1, 3)))
        # Blocks of a step still read the low bytes of the step before while the first ones write new ones.
        rests = (
            [
                _initial(low, op, n, range(3, 4)),
                (low.allocate(op.units, "the low bytes of the hidden state"), op.units),
            ]
            if op.wide
            else []
        )
        temporary += [hidden, state, *rests]
        _sequence(
            low,
            op,
            plan,
            n,
            order,
            x.address,
            y.address,
            batch,
            hidden[0],
            state[0],
            [address for address, _ in rests],
        )
        if op.cell:
            for row in (0, 1):
                last = y.address + ((steps + row) * batch + n) * op.units
                copy(low, [op.units], (state[0] + row * op.units, [1]), (last, [1]))
        if op.carried:
            offset = low.states[low.node.name] + n * op.first_bytes[n].size
            last = y.address + (order[-1] * batch + n) * op.units
            low.emit("STORE", region=Region.DATA, offset=offset, bytes=op.units, base=last)
            low.emit("STORE", region=Region.DATA, offset=offset + op.units, bytes=2 * op.units, base=state[0])
            if op.wide:
                low.emit(
                    "STORE",
                    region=Region.DATA,
                    offset=offset + 3 * op.units,
                    bytes=op.units,
                    base=rests[steps % 2][0],
                )
    for name in set(low.node.inputs[1:]):
        if low.graph.tensors[name].data is not None:
            low.places.pop(name)
    return temporary


def _initial(low: Lowering, op: Recurrent, n: int, part: range) -> tuple[int, int]:
    """Rows of `first_bytes`, or of the operands that give them, brought on chip: (address, bytes)."""
    if not op.carried and not op.given:
        return low.constant(op.first_bytes[n, part.start : part.stop])
    size = len(part) * op.units
    address = low.allocate(size, "the state")
    if op.given:
        for at, row in enumerate(part):
            place = low.places[low.node.inputs[1 + row]]
            source, target = place.address + n * op.units, address + at * op.units
            move(low, [op.units], (source, [1]), place.external, (target, [1]), False)
        return address, size
    offset = low.states[low.node.name] + n * op.first_bytes[n].size + part.start * op.units
    low.emit("LOAD", space=Space.ACT, region=Region.DATA, offset=offset, bytes=size, base=address)
    return address, size


@dataclass(frozen=True, eq=False, kw_only=True)
class _Block:
    """Weights of one gate for a block of units, as tiles.

    Parameters
    ----------
    key : hashable           identifies them within the node
    runs : tuple of range    chunks of R bytes of the vector that meet weights; the others are all zero
    tiles : int8 [tiles, R, C]   run by run, and in a run plane by plane
    length : int             bytes of the vector
    """

    key: tuple
    runs: tuple[range, ...]
    tiles: np.ndarray
    planes: int
    length: int


def _blocks(
    low: Lowering, name: str, weights: np.ndarray, blocks: list[range], vectors: int, planes: int
) -> dict[tuple[int, int], _Block]:
    """The blocks of [G, H, K] weights that are not zero, by gate and block; `vectors` meet them in one
    instruction.

    What is left out, of gates that have weights, is noted.
    """
    arch, (gates, _, length) = low.arch, weights.shape
    chunks = -(-length // arch.rows)
    frames = prod(low.graph.tensors[low.node.inputs[0]].shape[:2])
    result = {}
    for gate, (b, block) in product(range(gates), enumerate(blocks)):
        rest = weights[gate, block].T.astype(np.int64)
        tiles = np.zeros((planes, chunks * arch.rows, arch.cols), np.int64)
        for plane in range(planes):
            tiles[plane, :length, : len(block)] = rest // (planes - plane)
            rest = rest - tiles[plane, :length, : len(block)]
        tiles = tiles.astype(np.int8).reshape(planes, chunks, arch.rows, arch.cols)
        kept = tiles.any(axis=(0, 2, 3))
        runs = kept_runs(kept, low.worth(vectors)) if kept.any() else []
        if runs:
            stored = np.concatenate(
                [tiles[:, run.start : run.stop].reshape(-1, arch.rows, arch.cols) for run in runs]
            )
            result[gate, b] = _Block(
                key=(name, gate, b), runs=tuple(runs), tiles=stored, planes=planes, length=length
            )
        if weights[gate].any():
            left_out = set(range(chunks)).difference(*runs)
            macs = len(block) * sum(min(arch.rows, length - chunk * arch.rows) for chunk in left_out)
            low.skip((name, gate, b), planes * len(left_out), frames * macs)
    return result


@dataclass(frozen=True, eq=False, kw_only=True)
class _Plan:
    """How a layer is computed.

    Parameters
    ----------
    blocks : list of range      units whose gates stand side by side in the array
    length : int                steps whose share of the input is computed at once
    ahead : bool                the input's share is computed before the steps; else each step computes its
            own
    of_input, of_state : dict   weights that are not zero, by gate and block
    bias : int64 [G, H]
    """

    blocks: list[range]
    length: int
    ahead: bool
    of_input: dict[tuple[int, int], _Block]
    of_state: dict[tuple[int, int], _Block]
    bias: np.ndarray


def _planned(low: Lowering, op: Recurrent, steps: int) -> _Plan:
    arch = low.arch
    blocks = [range(i, min(i + arch.cols, op.units)) for i in range(0, op.units, arch.cols)]
    # Per block and gate an entry for each step of a run; where there are too many, each step computes the
    # input's share itself.
    lanes = len(blocks) * op.kind.gates
    ahead = lanes <= arch.acc_depth // 2
    length = max(1, min(steps, arch.acc_depth // 2 // lanes)) if ahead else 1
    return _Plan(
        blocks=blocks,
        length=length,
        ahead=ahead,
        of_input=_blocks(low, "x", op.weights, blocks, length, op.planes),
        of_state=_blocks(low, "h", op.recurrent, blocks, 1, 1),
        bias=op.bias.astype(np.int64) - op.unit * op.x_zero * op.weights.astype(np.int64).sum(axis=2),
    )


def _sequence(
    low: Lowering,
    op: Recurrent,
    plan: _Plan,
    n: int,
    order: range,
    x: int,
    y: int,
    batch: int,
    hidden: int,
    state: int,
    rests: list[int],
) -> None:
    """All steps of one element of the batch, from a hidden state and the low and high bytes of a state, which
    stay in place.

    `rests` are the two places between which the low bytes of a hidden state of 16 bits alternate, the first
    holds the initial ones.
    """
    arch, units, blocks, length, ahead = low.arch, op.units, plan.blocks, plan.length, plan.ahead
    of_input, of_state, bias = plan.of_input, plan.of_state, plan.bias
    inputs, lanes = op.weights.shape[2], len(blocks) * op.kind.gates
    for first in range(0, len(order), length):
        run = order[first : first + length]
        entries = low.accumulators(lanes * len(run)) if ahead else 0
        for b, gate in product(range(len(blocks)), range(op.kind.gates)):
            # What sees the input alone is computed, and released, in its step.
            if ahead and (gate, b) in of_input and (gate, b) in of_state:
                _product(
                    low,
                    of_input[gate, b],
                    x + (run[0] * batch + n) * inputs,
                    entries + (b * op.kind.gates + gate) * len(run),
                    pad=op.x_zero,
                    vectors=len(run),
                    step=order.step * batch * inputs,
                    final=False,
                    high=op.wide,
                )
        for step, t in enumerate(run):
            for b, block in enumerate(blocks):
                for gate in range(op.kind.gates):
                    acc = (
                        entries + (b * op.kind.gates + gate) * len(run) + step
                        if ahead
                        else low.accumulators(1)
                    )
                    seen, recurrent = of_input.get((gate, b)), of_state.get((gate, b))
                    if seen is not None and not (ahead and recurrent is not None):
                        _product(
                            low,
                            seen,
                            x + (t * batch + n) * inputs,
                            acc,
                            pad=op.x_zero,
                            final=recurrent is None,
                            high=op.wide,
                        )
                    if recurrent is not None or seen is None:
                        block_weights = recurrent or _nothing(arch)
                        _product(
                            low,
                            block_weights,
                            hidden,
                            acc,
                            accumulate=seen is not None,
                            final=not op.wide,
                            high=op.wide,
                        )
                        if op.wide:
                            _product(low, block_weights, rests[(first + step) % 2], acc, accumulate=True)
                    param = low.params(
                        ("gate", gate, b), bias[gate, block], op.mult[gate, block], op.shift[gate, block]
                    )
                    low.emit(
                        "OUTPUT", dest=Destination.CELL, acc=acc, ny=1, nx=1, channels=len(block), param=param
                    )
                low.emit(
                    "CELL",
                    kind=op.kind,
                    units=len(block),
                    state=state + block.start,
                    state_high=state + units + block.start,
                    dst=y + (t * batch + n) * units + block.start,
                    shift=op.cell_shift,
                    alpha=op.alpha,
                    wide=op.wide,
                    dst_low=rests[(first + step + 1) % 2] + block.start if op.wide else 0,
                )
            hidden = y + (t * batch + n) * units


def _nothing(arch: ArchConfig) -> _Block:
    """A tile of zeros, for a gate that has a bias alone: an accumulator must be released."""
    return _Block(
        key=("zero",),
        runs=(range(1),),
        tiles=np.zeros((1, arch.rows, arch.cols), np.int8),
        planes=1,
        length=1,
    )


def _product(
    low: Lowering,
    block: _Block,
    base: int,
    acc: int,
    *,
    pad: int = 0,
    vectors: int = 1,
    step: int = 0,
    final: bool = True,
    accumulate: bool = False,
    high: bool = False,
) -> None:
    """MATMUL of a block of weights with dense vectors; planes add up, and one instruction takes each run of
    chunks."""
    tile = low.weights(block.key, lambda: block.tiles)
    for run in block.runs:
        skipped = run.start * low.arch.rows
        # Each vector is a row of its own, so that what lies behind it does not count.
        low.emit(
            "MATMUL",
            base=base + skipped,
            x0=skipped,
            height=1,
            row_bytes=block.length,
            pad=pad,
            ky=block.planes,
            kt=len(run),
            oy=vectors,
            oy_addr=step,
            ox=1,
            taps=1,
            stride=1,
            tile=tile,
            acc=acc,
            accumulate=accumulate or run is not block.runs[0],
            final=final and run is block.runs[-1],
            high=high,
        )
        tile += block.planes * len(run)
