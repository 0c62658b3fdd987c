"""What operands of instructions name: engines, memories, modes, sources and destinations."""

from __future__ import annotations

import enum

__all__ = ["Cell", "Destination", "Engine", "Mode", "OperandA", "Region", "Space"]


class Engine(enum.IntEnum):
    """The units that execute instructions, each in order, all at the same time. The value is the bit in
    `wait` and `signal`."""

    #: External memory to an on-chip SRAM.
    LOAD = 0
    #: Activation SRAM to external memory.
    STORE = 1
    #: The systolic array, activation SRAM and weight SRAM to accumulators.
    MATRIX = 2
    #: Accumulators to activation SRAM, or to the vector unit.
    OUTPUT = 3
    #: Element-wise operations and pooling, activation SRAM to activation SRAM.
    VECTOR = 4


class Space(enum.IntEnum):
    """On-chip destinations of LOAD."""

    #: Activation SRAM, any byte address.
    ACT = 0
    #: Weight SRAM; base, steps and row length are multiples of the bus width.
    WEIGHT = 1
    #: Parameter SRAM; base, steps and row length are multiples of the bus width.
    PARAM = 2
    #: Tables, byte t*256 + (operand & 255) of slot t; base, steps and row length are multiples of the bus
    #: width.
    TABLE = 3


class Region(enum.IntEnum):
    """The two windows of external memory that a program may use; base and size are in the CSRs."""

    #: Streams and constants. Never written by the core.
    PROGRAM = 0
    #: Inputs, outputs, state and spilled tensors.
    DATA = 1


class Mode(enum.IntEnum):
    """How activations enter the array."""

    #: Row r takes lane r of each vector and shares it with all columns: sums[c] = sum over r of vector[r] *
    #: W[r][c].
    DENSE = 0
    #: Column c takes lane c, and pixels move down the column at half the speed of the sums:
    #: sums[c] for vector n = sum over r of vector[n - r][c] * W[r][c].
    DEPTHWISE = 1


class Destination(enum.IntEnum):
    """Where OUTPUT sends its results."""

    #: Activation SRAM.
    ACT = 0
    #: Operand `a` of the next ADD or MUL, in the same order.
    VECTOR = 1
    #: A gate of the next CELL, as int16: no zero point, no bounds, no table.
    CELL = 2


class Cell(enum.IntEnum):
    """The update rules of recurrent cells; see `spec.cells`."""

    #: Gates in order: input, forget, cell, output. State: the cell state.
    LSTM = 0
    #: Gates in order: reset, update, and the input's and the state's share of the new state. State: the
    #: hidden state.
    GRU = 1
    #: One gate. State: the hidden state, which moves towards tanh(gate) by `alpha`.
    RNN = 2

    @property
    def gates(self) -> int:
        """How many OUTPUT instructions with destination CELL feed one CELL."""
        return 1 if self is Cell.RNN else 4


class OperandA(enum.IntEnum):
    """Where ADD and MUL take operand `a` from."""

    #: Activation SRAM.
    ACT = 0
    #: The results of an OUTPUT with destination VECTOR.
    OUTPUT = 1
