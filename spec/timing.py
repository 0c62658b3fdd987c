"""Latencies of the cores, in clock cycles: the one place where they are written.

The hardware takes the lengths of its pipelines from here, or asserts them when it is elaborated; benches
count them cycle by cycle (tests/hw). The cycle model, the lowering and docs/timing.md derive from it: each of
their figures is a sum of latencies that can be counted, or a figure of the model, named as such.

A latency from one event to another is the difference of the cycles in which they happen. Standard library
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from systolith.spec.arch import ArchConfig
from systolith.spec.enums import Cell, Engine
from systolith.spec.isa import isa_for

__all__ = [
    "ACC_READ",
    "ACT_READ",
    "ACT_WRITE",
    "AFTER",
    "BEAT_WRITE",
    "BEGIN",
    "BUS_ADDRESS",
    "BUS_BEAT",
    "CELL_HIDDEN",
    "CELL_LOOKUP",
    "CELL_PRODUCT",
    "CELL_START",
    "CELL_STATE",
    "CHAIN_READ",
    "COMPACT_ACC_READ",
    "COMPACT_ACT_BEAT",
    "COMPACT_ACT_READ",
    "COMPACT_BEGIN",
    "COMPACT_BURST",
    "COMPACT_CHANNEL",
    "COMPACT_MATRIX_START",
    "COMPACT_MATRIX_WRITE",
    "COMPACT_OUTPUT_START",
    "COMPACT_OUTPUT_WRITE",
    "COMPACT_ROW",
    "COMPACT_TILE",
    "COMPACT_TRANSFER_START",
    "DISPATCH",
    "DRAIN",
    "FETCH_BURST",
    "LOAD_PATH",
    "LOAD_WRITE",
    "MATRIX_VECTOR",
    "MATRIX_WRITE",
    "MODEL_CHAIN",
    "MODEL_ISSUE",
    "MODEL_MATRIX",
    "MODEL_OUTPUT",
    "MODEL_STATE",
    "MODEL_TOKEN",
    "MODEL_TRANSFER",
    "MODEL_VECTOR",
    "OUTPUT_CHAIN",
    "OUTPUT_QUEUE",
    "OUTPUT_WRITE",
    "PARAM_READ",
    "PRODUCT",
    "QUEUE",
    "REDISPATCH",
    "ROUND",
    "ROW_WALK",
    "SDRAM_READ",
    "START",
    "STORE_BEAT",
    "STORE_PATH",
    "STORE_READ",
    "TABLE",
    "TOKEN",
    "VECTOR_ARITHMETIC",
    "VECTOR_WRITE",
    "WEIGHT_READ",
    "cell_chunk",
    "cell_write",
    "compact_issue",
    "matrix_write",
]

# -- Memories and arithmetic ---------------------------------------------------------------------------------
#: Read of the activation SRAM: from the grant to the bytes.
ACT_READ: Final = 5
#: Write of the activation SRAM: from its grant to the first grant of a read that sees it.
ACT_WRITE: Final = 2
#: Read of the weight SRAM: from a bank's line address to its row.
WEIGHT_READ: Final = 3
#: Read of the parameter SRAM: from the address to the chunk.
PARAM_READ: Final = 1
#: Beat to the weights, the parameters or the tables: from its acceptance to the first address that reads it.
BEAT_WRITE: Final = 2
#: Read of the accumulators: from the grant to the sums.
ACC_READ: Final = 2
#: Multiplier with registered operands and a registered product.
PRODUCT: Final = 2
#: Division by a power of two with rounding and saturation: coarse shift, fine shift, rounding.
ROUND: Final = 3
#: Table look-up: the memory's register and the one behind it.
TABLE: Final = 2
#: Product of a cell's lane: operands, product, rounding.
CELL_PRODUCT: Final = PRODUCT + 1
#: Look-up of a cell's lane: the segment, and the product that interpolates in it.
CELL_LOOKUP: Final = 1 + CELL_PRODUCT

# -- From an instruction to its engine -----------------------------------------------------------------------
#: From the whole instruction at the fetch unit's output to its queue: decoded, checked.
DISPATCH: Final = 2
#: From the queue to the issue, in an engine that is idle.
QUEUE: Final = 2
#: From `done` of an instruction to the issue of one that waited for its token.
TOKEN: Final = 2
#: From `done` to the issue of the next instruction in VECTOR, which has one at a time.
REDISPATCH: Final = 1
#: Walk of LOAD and STORE: from the issue to the first burst that is known.
ROW_WALK: Final = 3
#: From the issue to the first request: of a burst, a vector, an accumulator entry, an operand.
START: Final[Mapping[Engine, int]] = {
    Engine.LOAD: ROW_WALK + 1,
    Engine.STORE: ROW_WALK + 1,
    Engine.MATRIX: 4,
    Engine.OUTPUT: 1,
    Engine.VECTOR: 3,
}
#: The same of CELL: its first read of the state.
CELL_START: Final = 2

# -- Engines -------------------------------------------------------------------------------------------------
#: MATRIX: from the request of a vector to the vector at the array, in a register with its padding.
MATRIX_VECTOR: Final = ACT_READ + 1
#: MATRIX: from the request of a vector to the write of its sums and `done`, beyond the rows that it passes:
#: at the array, a product, added to the accumulator.
MATRIX_WRITE: Final = MATRIX_VECTOR + PRODUCT + 1
#: OUTPUT: the queue of results, from entering it to leaving it.
OUTPUT_QUEUE: Final = 2
#: OUTPUT: from the accumulator's grant to the offer of the result to VECTOR: chunk chosen, bias and two
#: products, their sum, rounded, clamped, past the table. A table takes one cycle more.
OUTPUT_CHAIN: Final = ACC_READ + 1 + PRODUCT + 1 + ROUND + 1 + 1 + OUTPUT_QUEUE
#: OUTPUT: the same to the write to the activation SRAM, which has a register more.
OUTPUT_WRITE: Final = OUTPUT_CHAIN + 1
#: VECTOR: from the operands to the rounded result: two products, their sum, rounded.
VECTOR_ARITHMETIC: Final = 2 * PRODUCT + 1 + ROUND
#: VECTOR: from the grant of a chunk's last read to the offer of its result: clamped, table, offered.
VECTOR_WRITE: Final = ACT_READ + VECTOR_ARITHMETIC + 1 + TABLE + 1
#: VECTOR: from the offer of a chunk by OUTPUT to the read of the other operand: the register between the
#: engines, the request.
CHAIN_READ: Final = 2
#: CELL: from the bytes of the state to the last gate that is taken with them.
CELL_STATE: Final = 1
#: CELL: from the last gate of a chunk of units to the write of its hidden state: look-ups, products, a step
#: for the argument of the second tanh, the offer.
CELL_HIDDEN: Final[Mapping[Cell, int]] = {
    Cell.LSTM: 2 * CELL_LOOKUP + 3 * CELL_PRODUCT + 1 + 1,
    Cell.GRU: 2 * CELL_LOOKUP + 3 * CELL_PRODUCT + 1 + 1,
    Cell.RNN: CELL_LOOKUP + 2 * CELL_PRODUCT + 1,
}

# -- Bus -----------------------------------------------------------------------------------------------------
#: FETCH: from the acceptance of a burst to the offer of the next.
FETCH_BURST: Final = 3
#: Read channel: from a burst's acceptance to AR.
BUS_ADDRESS: Final = 1
#: Read channel: from R to the beat at its engine.
BUS_BEAT: Final = 1
#: LOAD: from a beat at the engine to its write; `done` is in the cycle of the last.
LOAD_WRITE: Final = 2
#: STORE: from a burst, which is on AW at once, to the first read of the activation SRAM.
STORE_READ: Final = 2
#: STORE: from the read of a beat to the beat on W: the bytes, a queue, a register.
STORE_BEAT: Final = ACT_READ + 2
#: SDRAM controller: from the acceptance of an address to its first beat, in an open row, beyond the chip's
#: CAS latency, the words of a beat and the registers at the pins.
SDRAM_READ: Final = 8

# -- Cycle model ---------------------------------------------------------------------------------------------
#: An instruction's work begins so long after its issue.
BEGIN: Final = START[Engine.OUTPUT]
#: An instruction ends so long after `done`.
AFTER: Final = 1
#: From the whole instruction to the beginning of its work.
MODEL_ISSUE: Final = DISPATCH + QUEUE + BEGIN
#: From the end of an instruction to the beginning of what waits for its token.
MODEL_TOKEN: Final = TOKEN + BEGIN - AFTER
#: MATMUL: from the last of its busy cycles to the end, beyond the rows. Its vectors come later than its work
#: begins.
MODEL_MATRIX: Final = START[Engine.MATRIX] - BEGIN + MATRIX_WRITE
#: OUTPUT to the activation SRAM: from the last read to the end.
MODEL_OUTPUT: Final = OUTPUT_WRITE + AFTER
#: OUTPUT to VECTOR: from the first read to the first read of what takes its results.
MODEL_CHAIN: Final = OUTPUT_CHAIN + CHAIN_READ
#: ADD, MUL and POOL: from the last read to the end.
MODEL_VECTOR: Final = VECTOR_WRITE + AFTER
#: CELL: from the end of one, which is its `done`, to the last gate of the next, which needs the state: issue,
#: two reads, their bytes.
MODEL_STATE: Final = REDISPATCH + CELL_START + 1 + ACT_READ + CELL_STATE
#: LOAD: beyond the memory's latency and the beats, from the beginning to the end.
LOAD_PATH: Final = START[Engine.LOAD] - BEGIN + BUS_ADDRESS + BUS_BEAT + LOAD_WRITE
#: STORE: the same.
STORE_PATH: Final = START[Engine.STORE] - BEGIN + STORE_READ + STORE_BEAT
#: LOAD, STORE, and FETCH from START on: the model has one figure for all, the mean of the two.
MODEL_TRANSFER: Final = (LOAD_PATH + STORE_PATH) // 2
#: The array's rest between layers that the lowering tries to fill, beyond the rows: from the read of the last
#: sums to what waits for the results.
DRAIN: Final = OUTPUT_WRITE + MODEL_TOKEN

# -- Compact core --------------------------------------------------------------------------------------------
#: Read of the activation SRAM at an even address: from the grant to the bytes. An odd one takes a cycle more.
COMPACT_ACT_READ: Final = 1
#: From the last beat of an instruction to the beginning of its work in its unit.
COMPACT_BEGIN: Final = 1
#: MATRIX: cycles without a vector between two tiles: the next tile, its weights.
COMPACT_TILE: Final = 2
#: MATRIX: from the beginning to the first vector.
COMPACT_MATRIX_START: Final = COMPACT_TILE
#: MATRIX: from the request of a vector to the write of its sums: the bytes, products, added to the
#: accumulator.
COMPACT_MATRIX_WRITE: Final = COMPACT_ACT_READ + 2
#: Read of the accumulators: from the request to the sums.
COMPACT_ACC_READ: Final = 3
#: OUTPUT: from the beginning to the first accumulator entry.
COMPACT_OUTPUT_START: Final = 1
#: OUTPUT: per channel of a pixel.
COMPACT_CHANNEL: Final = 2
#: OUTPUT: from the read of an entry to the result of its first channel.
COMPACT_OUTPUT_WRITE: Final = COMPACT_ACC_READ + 7
#: LOAD and STORE: from the beginning to the first burst.
COMPACT_TRANSFER_START: Final = 3
#: LOAD and STORE: per beat to or from the activation SRAM, which is moved byte by byte. Figure of the model.
COMPACT_ACT_BEAT: Final = 4
#: LOAD and STORE: beside the beats of a burst and the memory's latency. Figure of the model.
COMPACT_BURST: Final = 5
#: LOAD and STORE: per row. Figure of the model.
COMPACT_ROW: Final = 1


def matrix_write(arch: ArchConfig) -> int:
    """From the request of a vector to the write of its sums."""
    return COMPACT_MATRIX_WRITE if arch.compact else arch.rows + MATRIX_WRITE


def compact_issue(arch: ArchConfig) -> int:
    """From the end of an instruction to the beginning of the next in a unit of a compact core: its beats come
    then, and it begins. The model counts one cycle more than that."""
    return isa_for(arch).word_bytes // arch.bus_bytes + COMPACT_BEGIN + BEGIN


def cell_write(kind: Cell, wide: bool) -> int:
    """From the last gate of a chunk of units to its last write: a hidden state of 16 bits is two."""
    return CELL_HIDDEN[kind] + wide


def cell_chunk(kind: Cell, wide: bool) -> int:
    """From the last gate of a chunk of units to that of the next.

    LSTM reads the next state while it computes; GRU and RNN read it when they have computed, and do their
    second write, if there is one, meanwhile.
    """
    if kind is Cell.LSTM:
        return cell_write(kind, wide) - 1
    return CELL_HIDDEN[kind] - 1 + ACT_READ
