"""The instruction set: one table of formats and fields, from which everything else derives.

Encoder, decoder, assembler, disassembler, hardware layouts, the functional machine, the cycle model and the
ISA page of the documentation all read `isa_for(arch)`; none of them states an opcode, a width or a position
of its own. Standard library only.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

from systolith.spec.arch import ArchConfig
from systolith.spec.enums import Cell, Destination, Engine, Mode, OperandA, Region, Space
from systolith.spec.instructions import Field, Format, Instr, Isa, IsaError
from systolith.spec.numerics import INT8, SHIFT_BITS, VECTOR_MULT

__all__ = [
    "Cell",
    "Destination",
    "Engine",
    "Field",
    "Format",
    "Instr",
    "Isa",
    "IsaError",
    "Mode",
    "OperandA",
    "Region",
    "Space",
    "chained_outputs",
    "isa_for",
    "semaphore_bits",
    "token_budget",
]


def semaphore_bits(arch: ArchConfig) -> int:
    """Width of a semaphore, which holds up to ``2**bits - 1`` tokens."""
    return 4 if arch.compact else 6


def token_budget(arch: ArchConfig) -> int:
    """Tokens that one semaphore may be owed in program order: its consumer may lag by as many instructions as
    wait in its queue."""
    return (1 << semaphore_bits(arch)) - 1 - arch.queue_depth - 2


def chained_outputs(instr: Instr) -> int:
    """How many OUTPUT instructions an instruction takes results from."""
    if instr.mnemonic == "CELL":
        return Cell(instr.kind).gates
    return int(instr.operands.get("a_source") == OperandA.OUTPUT)


#: Operands that a compact core does not have, and the one value that it knows.
_COMPACT_FIXED = {
    "MATMUL": {"mode": Mode.DENSE, "taps": 1, "stride": 1},
    "OUTPUT": {"dest": Destination.ACT, "table": 0, "slot": 0},
}


def _compact(fmt: Format) -> Format:
    """A format as a compact core has it; `space` comes last, so that LOAD and STORE are alike."""
    fixed = _COMPACT_FIXED.get(fmt.mnemonic, {})
    fields = sorted((f for f in fmt.fields if f.name not in fixed), key=lambda f: f.name == "space")
    return dataclasses.replace(fmt, fields=tuple(fields), fixed=tuple(fixed.items()))


@lru_cache(maxsize=64)
def isa_for(arch: ArchConfig) -> Isa:
    """The instruction set of one architecture: operand widths follow from its memories."""
    a = (arch.act_bytes - 1).bit_length()
    m = (arch.acc_depth - 1).bit_length()
    weight_tile = (arch.weight_tiles - 1).bit_length()
    sram = max(
        a,
        (arch.weight_bytes - 1).bit_length(),
        (arch.param_bytes - 1).bit_length(),
        (arch.table_bytes - 1).bit_length(),
    )
    param = (arch.param_rows - 1).bit_length()
    slot = max(1, (arch.table_slots - 1).bit_length())
    channel = (arch.cols - 1).bit_length()
    row = (arch.rows - 1).bit_length()
    external = min(32, arch.addr_bits)
    # A compact core has narrower counts, and not what its units would never read.
    coordinate, planes, rows, chunks, entries = (
        (12, 8, 12, weight_tile, (m, m)) if arch.compact else (16, 12, 16, 16, (m + 1, m + 5))
    )

    # The vector unit comes last.
    engines = len(Engine) - arch.compact

    def count(name: str, bits: int, doc: str, unit: str = "") -> Field:
        return Field(name, bits, doc, bias=1, unit=unit)

    def address(name: str, doc: str) -> Field:
        return Field(name, a, doc, unit="bytes")

    header = (
        Field("opcode", 4, "selects the format"),
        Field(
            "wait",
            engines,
            "take one token from each engine whose bit is set before starting",
            unit="engines",
        ),
        Field("signal", engines, "give one token to each engine whose bit is set when done", unit="engines"),
    )
    window = (
        Field("y0", coordinate, "y of the first position", signed=True, unit="rows"),
        Field(
            "x0",
            a + 2,
            "x of the first position, in bytes from the start of its row",
            signed=True,
            unit="bytes",
        ),
        Field("height", coordinate, "positions with y outside [0, height) are padding", unit="rows"),
        Field("row_bytes", a + 1, "bytes with x outside [0, row_bytes) are padding", unit="bytes"),
    )
    requantised = (
        Field("zero", INT8.width, "zero point of the result", signed=True),
        Field("low", INT8.width, "lower bound of the result before the table", signed=True),
        Field("high", INT8.width, "upper bound of the result before the table", signed=True),
        *(
            table := (
                Field("table", 1, "1: replace the result q by table[slot][q & 255]"),
                Field("slot", slot, "table slot"),
            )
        ),
    )
    transfer = (
        Field("region", 1, "window of external memory", enum=Region),
        Field("offset", external, "first byte in the region", unit="bytes"),
        count("planes", planes, "outer count"),
        count("rows", rows, "inner count"),
        count("bytes", sram, "contiguous bytes per row", unit="bytes"),
        Field("ext_plane", external, f"external step per plane, modulo 2**{external}", unit="bytes"),
        Field("ext_row", external, f"external step per row, modulo 2**{external}", unit="bytes"),
        Field("base", sram, "first byte in the SRAM", unit="bytes"),
        Field("plane", sram, "SRAM step per plane, modulo the address width", unit="bytes"),
        Field("row", sram, "SRAM step per row, modulo the address width", unit="bytes"),
    )
    binary = (
        count("ny", coordinate, "rows"),
        count("nx", coordinate, "pixels per row"),
        count("bytes", 12, "bytes per pixel, moved in chunks of `lanes`", unit="bytes"),
        Field("a_source", 1, "where operand a comes from", enum=OperandA),
        address("a", "first byte of operand a"),
        address("a_row", "step per row"),
        address("a_px", "step per pixel"),
        address("b", "first byte of operand b"),
        address("b_row", "step per row"),
        address("b_px", "step per pixel"),
        address("dst", "first byte of the result"),
        address("dst_row", "step per row"),
        address("dst_px", "step per pixel"),
        Field("a_zero", INT8.width, "zero point of a", signed=True),
        Field("b_zero", INT8.width, "zero point of b", signed=True),
        Field("a_mult", VECTOR_MULT.width, "multiplier of a, or of the product", signed=True),
        Field("b_mult", VECTOR_MULT.width, "multiplier of b (ADD only)", signed=True),
        Field("shift", SHIFT_BITS, "right shift of the sum or product", unit="bits"),
        *requantised,
    )
    steps = "All addresses are modulo the size of the address field."
    formats = (
        Format("NOP", 0, None, (), "nothing", "`wait` and `signal` must be 0."),
        Format(
            "HALT",
            1,
            None,
            (),
            "stop when every engine is idle and every write has been acknowledged",
            "`wait` and `signal` must be 0.",
        ),
        Format(
            "LOAD",
            2,
            Engine.LOAD,
            (Field("space", 2, "destination SRAM", enum=Space), *transfer),
            "for p < planes, r < rows: space[base + p*plane + r*row + (0..bytes-1)] = "
            "region[offset + p*ext_plane + r*ext_row + (0..bytes-1)]",
            steps,
        ),
        Format(
            "STORE",
            3,
            Engine.STORE,
            transfer,
            "for p < planes, r < rows: region[offset + p*ext_plane + r*ext_row + (0..bytes-1)] = "
            "act[base + p*plane + r*row + (0..bytes-1)]",
            "`region` must be DATA. " + steps,
        ),
        Format(
            "MATMUL",
            4,
            Engine.MATRIX,
            (
                Field("mode", 1, "how activations enter the array", enum=Mode),
                address("base", "address of the first position; may be virtual where that is padding"),
                *window,
                Field("pad", INT8.width, "value of padding", signed=True),
                count("ky", 8, "kernel rows"),
                address("ky_addr", "address step per kernel row"),
                Field("ky_y", 8, "y step per kernel row"),
                count("kx", 8, "kernel columns, or runs of taps"),
                Field("kx_x", a, "x and address step per kernel column", unit="bytes"),
                count("kt", chunks, "chunks of R bytes in a run"),
                count("oy", entries[0], "output rows"),
                address("oy_addr", "address step per output row"),
                Field("oy_y", 8, "y step per output row"),
                count("ox", entries[1], "vectors streamed per output row"),
                Field("ox_x", a, "x and address step per vector", unit="bytes"),
                count(
                    "taps", row, "vectors of a row that pass before the first sum counts, plus 1 (1 in DENSE)"
                ),
                count("stride", 4, "of the vectors that follow, every stride-th counts (1 in DENSE)"),
                Field(
                    "tile", weight_tile, "first weight tile; each (ky, kx, kt) takes the next", unit="tiles"
                ),
                Field("acc", m, "first accumulator entry", unit="entries"),
                Field("accumulate", 1, "1: add to the entries; 0: the first (ky, kx, kt) overwrites them"),
                Field(
                    "final", 1, "1: the last (ky, kx, kt) releases each entry it writes to OUTPUT, in order"
                ),
                Field(
                    "high",
                    1,
                    "1: all sums count 256 times, as those of the high bytes of operands of 16 bits",
                ),
            ),
            "for ky, kx, kt (each with the next weight tile W): i = acc; for oy: for ox: v = the R (DENSE) "
            "or C (DEPTHWISE) bytes at base + ky*ky_addr + kx*kx_x + kt*R + oy*oy_addr + ox*ox_x, with bytes "
            "outside the window replaced by pad; if ox >= taps-1 and (ox-taps+1) % stride == 0: acc[i] (+)= "
            "(high ? 256 : 1) * sums(v, W); i += 1",
            "Byte j of a vector lies at y = y0 + ky*ky_y + oy*oy_y and x = x0 + kx*kx_x + kt*R + "
            "ox*ox_x + j. In DEPTHWISE mode kt must be 1. " + steps,
        ),
        Format(
            "OUTPUT",
            5,
            Engine.OUTPUT,
            (
                Field("dest", 2, "where the results go", enum=Destination),
                Field("acc", m, "first accumulator entry", unit="entries"),
                count("ny", entries[0], "rows"),
                count("nx", entries[0], "pixels per row"),
                count("channels", channel, "channels of a pixel that are kept"),
                address("dst", "first byte of the result"),
                address("dst_row", "step per row"),
                address("dst_px", "step per pixel"),
                Field(
                    "param",
                    param,
                    "entry of the parameter SRAM: bias, mult, shift of each channel",
                    unit="entries",
                ),
                *requantised,
            ),
            "for y < ny, x < nx, c < channels: q = clamp(zero + round_half_even((acc[i][c] + bias[c]) * "
            "mult[c] / 2**shift[c]), low, high); act[dst + y*dst_row + x*dst_px + c] = table ? "
            "tables[slot][q & 255] : q; i += 1 per pixel",
            "Takes one released accumulator entry per pixel, so it may start while MATMUL still runs. "
            "`dst`, `dst_row`, `dst_px` are unused with VECTOR.",
        ),
        Format(
            "ADD",
            6,
            Engine.VECTOR,
            binary,
            "q = clamp(zero + round_half_even(((a - a_zero)*a_mult + (b - b_zero)*b_mult) / 2**shift), low, "
            "high); dst = table ? tables[slot][q & 255] : q",
            "With a_source = OUTPUT, a, a_row and a_px are unused.",
        ),
        Format(
            "MUL",
            7,
            Engine.VECTOR,
            binary,
            "q = clamp(zero + round_half_even((a - a_zero)*(b - b_zero)*a_mult / 2**shift), low, high); "
            "dst = table ? tables[slot][q & 255] : q",
            "b_mult is unused. With a_source = OUTPUT, a, a_row and a_px are unused.",
        ),
        Format(
            "POOL",
            8,
            Engine.VECTOR,
            (
                count("ny", coordinate, "output rows"),
                count("nx", coordinate, "output pixels per row"),
                count("bytes", 12, "bytes per pixel, moved in chunks of `lanes`", unit="bytes"),
                address("base", "address of the first position; may be virtual where that is padding"),
                *window,
                count("ky", 8, "window rows"),
                address("ky_addr", "address step per window row"),
                Field("ky_y", 8, "y step per window row"),
                count("kx", 8, "window columns"),
                Field("kx_x", a, "x and address step per window column", unit="bytes"),
                address("oy_addr", "address step per output row"),
                Field("oy_y", 8, "y step per output row"),
                Field("ox_x", a, "x and address step per output pixel", unit="bytes"),
                address("dst", "first byte of the result"),
                address("dst_row", "step per row"),
                address("dst_px", "step per pixel"),
                *table,
            ),
            "q = the maximum over ky, kx of the bytes at base + oy*oy_addr + ox*ox_x + ky*ky_addr + kx*kx_x "
            "+ (0..bytes-1) whose y and x (of byte 0) lie in the window, or -128; dst = table ? "
            "tables[slot][q & 255] : q",
            "With ky = kx = 1 it copies; with a table it is any function of one int8. " + steps,
        ),
        Format(
            "CELL",
            9,
            Engine.VECTOR,
            (
                Field("kind", 2, "update rule", enum=Cell),
                count("units", channel, "units, as many as channels of each gate"),
                address("state", "low byte of the state of the first unit"),
                address("state_high", "high byte of the state of the first unit"),
                address("dst", "hidden state of the first unit, int8"),
                Field("wide", 1, "1: the hidden state has 16 bits, and dst is its rounded high byte"),
                address("dst_low", "with wide, low byte of the hidden state of the first unit, int8"),
                Field("shift", 3, "LSTM: 12 minus the fractional bits of the cell state", unit="bits"),
                Field("alpha", 16, "RNN: how far the state moves, in units of 2**-15, up to 2**15"),
            ),
            "for u < units: (state[u], h) = the cell's rule on the gates and state[u]; act[dst + u] = wide ? "
            "(h + 128) >> 8 : h; if wide: act[dst_low + u] = h - 256 * act[dst + u]; see docs/numerics.md",
            "Takes the results of as many OUTPUT instructions with destination CELL as the rule has gates, "
            "in order. state[u] is int16: its low byte lies at state + u, its high byte at state_high + u. "
            "`shift` is for LSTM, `alpha` for RNN; the others ignore them. dst_low is unused without wide. "
            "The ranges must not overlap.",
        ),
    )
    return Isa(
        header,
        tuple(_compact(fmt) for fmt in formats if fmt.engine is not Engine.VECTOR)
        if arch.compact
        else formats,
    )
