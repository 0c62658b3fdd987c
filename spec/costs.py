"""What one instruction keeps its engine busy for, from its operands alone."""

from __future__ import annotations

from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Cell, Instr, OperandA, Space
from systolith.spec.memory import BURST_BEATS

__all__ = [
    "CELL_CYCLES",
    "CELL_LATENCY",
    "busy_cycles",
    "cell_cycles",
    "cell_latency",
    "matrix_cycles",
    "transfer_beats",
]

#: Cycles of a CELL from the last gate of one chunk of units to that of the next, and to the chunk's last
#: write.
CELL_CYCLES = {Cell.LSTM: 18, Cell.GRU: 23, Cell.RNN: 15}
CELL_LATENCY = {Cell.LSTM: 19, Cell.GRU: 19, Cell.RNN: 11}


def cell_cycles(instr: Instr) -> int:
    """Cycles of a CELL from chunk to chunk; a hidden state of 16 bits is one write more, which GRU and RNN do
    while they read the next state."""
    return CELL_CYCLES[Cell(instr.kind)] + (instr.wide and instr.kind == Cell.LSTM)


def cell_latency(instr: Instr) -> int:
    """Cycles of a CELL from the last gate of a chunk to its last write."""
    return CELL_LATENCY[Cell(instr.kind)] + instr.wide


def matrix_cycles(instr: Instr, arch: ArchConfig) -> int:
    """Cycles of a MATMUL: every tile takes the longer of its vectors and its weight load.

    In a compact core a tile takes two cycles more, a vector at an odd address one more, and OUTPUT takes one
    per pixel.
    """
    if arch.compact:
        pixels = instr.oy * instr.ox
        return (
            instr.ky * instr.kx * instr.kt * (pixels + 2) + _odd_vectors(instr, arch) + pixels * instr.final
        )
    return instr.ky * instr.kx * instr.kt * max(instr.oy * instr.ox, arch.weight_load_cycles)


def _odd_vectors(instr: Instr, arch: ArchConfig) -> int:
    """How many vectors of a MATMUL begin at an odd address."""
    even, odd = 1 - instr.base % 2, instr.base % 2
    for count, step in (
        (instr.ky, instr.ky_addr),
        (instr.kx, instr.kx_x),
        (instr.kt, arch.rows),
        (instr.oy, instr.oy_addr),
        (instr.ox, instr.ox_x),
    ):
        same = -(-count // 2) if step % 2 else count
        even, odd = even * same + odd * (count - same), odd * same + even * (count - same)
    return odd


def transfer_beats(instr: Instr, arch: ArchConfig) -> int:
    """Beats of a LOAD or STORE."""
    return instr.planes * instr.rows * -(-instr.bytes // arch.bus_bytes)


def _compact_transfer_cycles(instr: Instr, arch: ArchConfig) -> int:
    """One burst at a time, and to or from the activation SRAM 4 cycles a beat; without the latency of
    memory."""
    beats = transfer_beats(instr, arch) // (instr.planes * instr.rows)
    per_beat = 4 if instr.operands.get("space", Space.ACT) == Space.ACT else 1
    return instr.planes * instr.rows * (beats * per_beat + 5 * -(-beats // BURST_BEATS) + 1)


def busy_cycles(instr: Instr, arch: ArchConfig) -> int:
    """Cycles without stalls and without latency; 0 for NOP and HALT."""
    match instr.mnemonic:
        case "MATMUL":
            return matrix_cycles(instr, arch)
        case "OUTPUT":
            # A compact core spends two cycles on each channel, used or not.
            return instr.ny * instr.nx * (2 * arch.cols if arch.compact else -(-instr.channels // arch.lanes))
        case "ADD" | "MUL":
            chunks = instr.ny * instr.nx * -(-instr.bytes // arch.lanes)
            return chunks * (1 if instr.a_source == OperandA.OUTPUT else 2)
        case "CELL":
            return cell_cycles(instr) * -(-instr.units // arch.lanes)
        case "POOL":
            return instr.ny * instr.nx * -(-instr.bytes // arch.lanes) * instr.ky * instr.kx
        case "LOAD" | "STORE":
            if arch.compact:
                return _compact_transfer_cycles(instr, arch)
            # A line that is narrower than a beat takes several writes.
            line = {
                Space.WEIGHT: arch.weight_line_bytes,
                Space.PARAM: arch.param_chunk_bytes,
                Space.TABLE: 1,
            }.get(instr.operands.get("space"))
            return transfer_beats(instr, arch) * (max(1, arch.bus_bytes // line) if line is not None else 1)
    return 0
