"""Recurrent layers: the input's share of all steps as one dense product, then step by step the state's share and the cells.

The sums of both shares meet in the accumulators: MATMUL leaves the input's share of a run of steps there, and each step
adds the state's share to its own entries and releases them. The gates of a block of C units follow one another, so that their cell
is updated while the array works on the next block.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from systolith.compiler.lower.context import Lowering
from systolith.reference.recurrent import Recurrent
from systolith.spec.isa import Destination, Region, Space

__all__ = ["lower_recurrent"]


def lower_recurrent(low: Lowering, op: Recurrent) -> list[tuple[int, int]]:
    """One layer; x and the result lie row-major. Returns ranges of the activation SRAM to release.

    Raises
    ------
    AllocationError   If the sequence or its result does not fit the activation SRAM.
    """
    x, y = low.places[low.node.inputs[0]], low.places[low.result]
    if x.external or y.external:
        raise low.no_room(f"the sequence of {low.node.op_type} is needed whole, {x.bytes} bytes and {y.bytes} bytes of results")
    steps, batch, _ = low.graph.tensors[low.node.inputs[0]].shape
    temporary = []
    for n in range(batch):
        order = range(steps)[:: -1 if op.reverse else 1]
        # Two ranges, so that the cell finds its state in another block of the SRAM than the one that the array reads.
        hidden, state = (_initial(low, op, n, part) for part in (slice(0, 1), slice(1, 3)))
        temporary += [hidden, state]
        _sequence(low, op, n, order, x.address, y.address, batch, hidden[0], state[0])
        if op.carried:
            offset = low.states[low.node.name] + n * 3 * op.units
            last = y.address + (order[-1] * batch + n) * op.units
            low.emit("STORE", region=Region.DATA, offset=offset, bytes=op.units, base=last)
            low.emit("STORE", region=Region.DATA, offset=offset + op.units, bytes=2 * op.units, base=state[0])
    return temporary


def _initial(low: Lowering, op: Recurrent, n: int, part: slice) -> tuple[int, int]:
    """Rows of `first_bytes`, brought on chip: (address, bytes)."""
    if not op.carried:
        return low.constant(op.first_bytes[n, part])
    size = op.first_bytes[n, part].size
    address = low.allocate(size, "the state")
    low.emit("LOAD", space=Space.ACT, region=Region.DATA, offset=low.states[low.node.name] + (n * 3 + part.start) * op.units, bytes=size, base=address)
    return address, size


def _sequence(low: Lowering, op: Recurrent, n: int, order: range, x: int, y: int, batch: int, hidden: int, state: int) -> None:
    """All steps of one element of the batch, from a hidden state and the low and high bytes of a state, which stay in place."""
    arch, units = low.arch, op.units
    inputs = op.weights.shape[2]
    blocks = [range(i, min(i + arch.cols, units)) for i in range(0, units, arch.cols)]
    # Per block and gate an entry for each step of a run; where there are too many, each step computes the input's share itself.
    lanes = len(blocks) * op.kind.gates
    ahead = lanes <= arch.acc_depth // 2
    length = max(1, min(len(order), arch.acc_depth // 2 // lanes)) if ahead else 1
    bias = op.bias.astype(np.int64) - op.x_zero * op.weights.astype(np.int64).sum(axis=2)
    sees_input, sees_state = ([bool(part[gate].any()) for gate in range(op.kind.gates)] for part in (op.weights, op.recurrent))
    for first in range(0, len(order), length):
        run = order[first:first + length]
        entries = low.accumulators(lanes * len(run)) if ahead else 0
        for (b, block), gate in product(enumerate(blocks), range(op.kind.gates)):
            # What sees the input alone is computed, and released, in its step.
            if ahead and sees_input[gate] and sees_state[gate]:
                _product(low, ("x", gate, b), op.weights[gate, block], x + (run[0] * batch + n) * inputs,
                         entries + (b * op.kind.gates + gate) * len(run), pad=op.x_zero, vectors=len(run), step=order.step * batch * inputs,
                         planes=op.planes, final=False)
        for step, t in enumerate(run):
            for b, block in enumerate(blocks):
                for gate in range(op.kind.gates):
                    acc = entries + (b * op.kind.gates + gate) * len(run) + step if ahead else low.accumulators(1)
                    if sees_input[gate] and not (ahead and sees_state[gate]):
                        _product(low, ("x", gate, b), op.weights[gate, block], x + (t * batch + n) * inputs, acc, pad=op.x_zero, planes=op.planes,
                                 final=not sees_state[gate])
                    if sees_state[gate] or not sees_input[gate]:
                        _product(low, ("h", gate, b), op.recurrent[gate, block], hidden, acc, accumulate=sees_input[gate])
                    param = low.params(("gate", gate, b), bias[gate, block], op.mult[gate, block], op.shift[gate, block])
                    low.emit("OUTPUT", dest=Destination.CELL, acc=acc, ny=1, nx=1, channels=len(block), param=param)
                low.emit("CELL", kind=op.kind, units=len(block), state=state + block.start, state_high=state + units + block.start,
                         dst=y + (t * batch + n) * units + block.start, shift=op.cell_shift, alpha=op.alpha)
            hidden = y + (t * batch + n) * units


def _product(low: Lowering, key: tuple, weights: np.ndarray, base: int, acc: int, *, pad: int = 0, vectors: int = 1, step: int = 0, planes: int = 1,
             final: bool = True, accumulate: bool = False) -> None:
    """MATMUL of [units, K] weights with dense vectors of K bytes; `planes` of int8 tiles add up to the weights."""
    arch, (count, length) = low.arch, weights.shape
    chunks = -(-length // arch.rows)

    def tiles() -> np.ndarray:
        result, rest = np.zeros((planes, chunks * arch.rows, arch.cols), np.int64), weights.T.astype(np.int64)
        for plane in range(planes):
            result[plane, :length, :count] = rest // (planes - plane)
            rest = rest - result[plane, :length, :count]
        return result.astype(np.int8).reshape(-1, arch.rows, arch.cols)

    tile = low.weights(key, tiles)
    # Each vector is a row of its own, so that what lies behind it does not count.
    low.emit("MATMUL", base=base, height=1, row_bytes=length, pad=pad, ky=planes, kt=chunks, oy=vectors, oy_addr=step, ox=1, taps=1, stride=1, tile=tile, acc=acc,
             accumulate=accumulate, final=final)
