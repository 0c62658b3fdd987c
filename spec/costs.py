"""What one instruction keeps its engine busy for, from its operands alone."""

from __future__ import annotations

from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Cell, Instr, OperandA, Space
from systolith.spec.memory import BURST_BEATS

__all__ = [
    "HOST_MACS_PER_CYCLE",
    "HOST_NODE_CYCLES",
    "HOST_STEP_CYCLES",
    "busy_cycles",
    "matrix_cycles",
    "transfer_beats",
]

#: What the host needs, in cycles of the core: for a node, for one more step of the core, and how many
#: multiply-accumulates or elements it does in one. A rule of thumb, on which only the division of a model
#: between core and host depends.
HOST_NODE_CYCLES = 100
HOST_STEP_CYCLES = 2000
HOST_MACS_PER_CYCLE = 4


def matrix_cycles(instr: Instr, arch: ArchConfig) -> int:
    """Cycles of a MATMUL: every tile takes the longer of its vectors and its weight load.

    In a compact core there are cycles between tiles, a vector at an odd address takes one more, and OUTPUT
    takes one per pixel.
    """
    if arch.compact:
        pixels = instr.oy * instr.ox
        return (
            instr.ky * instr.kx * instr.kt * (pixels + timing.COMPACT_TILE)
            + _odd_vectors(instr, arch)
            + pixels * instr.final
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
    """One burst at a time, to or from the activation SRAM byte by byte; without the memory\'s latency."""
    beats = transfer_beats(instr, arch) // (instr.planes * instr.rows)
    per_beat = timing.COMPACT_ACT_BEAT if instr.operands.get("space", Space.ACT) == Space.ACT else 1
    bursts = -(-beats // BURST_BEATS)
    cycles = beats * per_beat + timing.COMPACT_BURST * bursts + timing.COMPACT_ROW
    return instr.planes * instr.rows * cycles


def busy_cycles(instr: Instr, arch: ArchConfig) -> int:
    """Cycles without stalls and without latency; 0 for NOP and HALT."""
    match instr.mnemonic:
        case "MATMUL":
            return matrix_cycles(instr, arch)
        case "OUTPUT":
            # A compact core spends as long on each channel, used or not.
            chunks = timing.COMPACT_CHANNEL * arch.cols if arch.compact else -(-instr.channels // arch.lanes)
            return instr.ny * instr.nx * chunks
        case "ADD" | "MUL":
            chunks = instr.ny * instr.nx * -(-instr.bytes // arch.lanes)
            return chunks * (1 if instr.a_source == OperandA.OUTPUT else 2)
        case "CELL":
            chunks = -(-instr.units // arch.lanes)
            return timing.cell_chunk(Cell(instr.kind), bool(instr.wide)) * chunks
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
            }.get(Space(instr.operands.get("space", Space.ACT)))
            return transfer_beats(instr, arch) * (max(1, arch.bus_bytes // line) if line is not None else 1)
    return 0
