"""Interfaces between the blocks of the core, each written from the initiator's side.

Instruction operands reach the engines as the table encodes them: a count is stored minus its bias, so a field
holds the *last index* of its loop.
"""

from amaranth.hdl import Const, Shape, Value, signed, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.cells import GATE
from systolith.spec.isa import Engine, Field, isa_for
from systolith.spec.numerics import INT8, PARAM_FIELDS
from systolith.spec.regs import ErrorCode

__all__ = [
    "AccReadSignature",
    "AccTraceSignature",
    "ActReadSignature",
    "ActWriteSignature",
    "BeatWriteSignature",
    "EngineSignature",
    "HwErrorCode",
    "ParamReadSignature",
    "WeightReadSignature",
    "chain_layout",
    "chunk_layout",
    "command_layout",
    "field_shape",
    "format_layout",
    "param_layout",
    "touched_blocks",
]

#: Error codes as hardware values: the same members as `spec.regs.ErrorCode`.
HwErrorCode = enum.Enum("HwErrorCode", {e.name: e.value for e in ErrorCode})


def field_shape(field: Field) -> Shape:
    """Shape of an operand as encoded."""
    return signed(field.bits) if field.signed else unsigned(field.bits)


def format_layout(arch: ArchConfig, mnemonic: str) -> data.StructLayout:
    """Operands of one format, without the header."""
    return data.StructLayout({f.name: field_shape(f) for f in isa_for(arch).by_mnemonic[mnemonic].fields})


def command_layout(arch: ArchConfig, engine: Engine) -> data.StructLayout:
    """What an engine receives: ``opcode`` and ``body``, a union with one member per mnemonic and ``raw``."""
    isa = isa_for(arch)
    members = {f.mnemonic: format_layout(arch, f.mnemonic) for f in isa.formats if f.engine is engine}
    width = max(layout.size for layout in members.values())
    return data.StructLayout(
        {"opcode": isa.header[0].bits, "body": data.UnionLayout({**members, "raw": width})}
    )


def param_layout() -> data.StructLayout:
    """One channel in the parameter SRAM."""
    return data.StructLayout(
        {name: signed(bits) if is_signed else unsigned(bits) for name, bits, is_signed in PARAM_FIELDS}
    )


def chunk_layout(arch: ArchConfig) -> data.ArrayLayout:
    """One chunk of activations."""
    return data.ArrayLayout(signed(INT8.width), arch.lanes)


def chain_layout(arch: ArchConfig) -> data.ArrayLayout:
    """One chunk of results from the output stage to the vector unit: gates, or activations with their sign
    extended."""
    return data.ArrayLayout(signed(GATE.width), arch.lanes)


class EngineSignature(wiring.Signature):
    """Between the sequencer (initiator), which owns queues and semaphores, and one engine.

    Members
    -------
    cmd : Out(stream)     the next instruction. An engine may accept one before the previous is done, if it
          keeps their effects in order
    done : In(1)          pulses once per instruction, in order, in the cycle in which a memory accepts its
           last effect or later, and before
                          (never in the same cycle as) the first effect of the next instruction; what waits
                          for it begins more than two cycles later
    stall : In(1)         the engine is executing but held up (for the STALL counter)
    error : In(1)         pulses: the oldest instruction that is not done cannot be executed; after it the
            engine makes no further effect until reset
    error_code : In       why, valid with `error`
    stop : Out(1)         begin no further bus transaction, finish those under way, discard what they bring
           (only LOAD and STORE look at it)
    idle : In(1)          no bus transaction is under way (always 1 for engines without a bus)
    """

    def __init__(self, arch: ArchConfig, engine: Engine) -> None:
        super().__init__(
            {
                "cmd": Out(stream.Signature(command_layout(arch, engine))),
                "done": In(1),
                "stall": In(1),
                "error": In(1),
                "error_code": In(HwErrorCode),
                "stop": Out(1),
                "idle": In(1),
            }
        )


def touched_blocks(arch: ArchConfig, addr: Value) -> Value:
    """Mask of the blocks of the activation SRAM in which the `act_width` bytes from `addr` lie."""
    if arch.act_blocks == 1:
        return Const(1, 1)
    first, size = (arch.act_block_bytes - 1).bit_length(), (arch.act_bytes - 1).bit_length()
    return (1 << addr[first:size]) | (1 << (addr + (arch.act_width - 1))[first:size])


class ActReadSignature(wiring.Signature):
    """A read port of the activation SRAM.

    Members
    -------
    valid, addr : Out     request `act_width` bytes from any byte address (modulo the size)
    blocks : Out          `touched_blocks` of the address, best from a register: the arbiter begins with it
    ready : In(1)         granted in this cycle
    data : In             byte j is act[addr + j], valid exactly `LATENCY` cycles after the grant, for one
           cycle
    """

    LATENCY = timing.ACT_READ

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "addr": Out(range(arch.act_bytes)),
                "blocks": Out(arch.act_blocks),
                "ready": In(1),
                "data": In(data.ArrayLayout(unsigned(8), arch.act_width)),
            }
        )


class ActWriteSignature(wiring.Signature):
    """A write port of the activation SRAM: byte j goes to act[addr + j] where mask[j] is set, when `valid`
    and `ready`.

    `blocks` is as in `ActReadSignature`. Reads that are granted `timing.ACT_WRITE` cycles later, or
    after that, see the bytes.
    """

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "addr": Out(range(arch.act_bytes)),
                "blocks": Out(arch.act_blocks),
                "data": Out(data.ArrayLayout(unsigned(8), arch.act_width)),
                "mask": Out(arch.act_width),
                "ready": In(1),
            }
        )


class BeatWriteSignature(wiring.Signature):
    """A write port for whole beats: weight SRAM, parameter SRAM, tables. Reads whose address comes
    `timing.BEAT_WRITE` cycles after a beat is accepted, or later, see it.

    Members
    -------
    valid, beat, data : Out   beat number `beat` (byte address / bus bytes) becomes `data`
    ready : In(1)             accepted
    """

    def __init__(self, arch: ArchConfig, size_bytes: int) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "beat": Out(range(max(2, size_bytes // arch.bus_bytes))),
                "data": Out(arch.bus_bits),
                "ready": In(1),
            }
        )


class WeightReadSignature(wiring.Signature):
    """Reads of the weight SRAM: one line address per bank; each bank delivers one row of C weights
    ``LATENCY`` cycles after one with its `en`, and anything in other cycles.

    Line ``tile*G + j`` of bank b holds row ``b*G + j`` of that tile (G = arch.weight_load_cycles).
    """

    LATENCY = timing.WEIGHT_READ

    def __init__(self, arch: ArchConfig) -> None:
        banks = arch.weight_rows_per_cycle
        super().__init__(
            {
                "en": Out(banks),
                "line": Out(data.ArrayLayout(range(arch.weight_tiles * arch.weight_load_cycles), banks)),
                "data": In(data.ArrayLayout(data.ArrayLayout(signed(8), arch.cols), banks)),
            }
        )


class ParamReadSignature(wiring.Signature):
    """A read of the parameter SRAM: one chunk of `lanes` channels, ``LATENCY`` cycles after `addr`, which is
    entry * `arch.chunks` + chunk."""

    LATENCY = timing.PARAM_READ

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "en": Out(1),
                "addr": Out(range(arch.param_rows * arch.chunks)),
                "data": In(data.ArrayLayout(param_layout(), arch.lanes)),
            }
        )


class AccTraceSignature(wiring.Signature):
    """The C sums of one accumulator entry, for a checker: ``data`` of entry ``addr`` in the cycles of
    ``valid``."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__({"valid": Out(1), "addr": Out(range(arch.acc_depth)), "data": Out(32 * arch.cols)})


class AccReadSignature(wiring.Signature):
    """The output stage reading the accumulators.

    Members
    -------
    valid, addr : Out      request one entry
    ready : In(1)          granted in this cycle (the array's own reads of the same bank come first)
    data : In              C sums, from `LATENCY` cycles after the grant to as many after the next one
    release : In(1)        pulses when the array has written one more final entry; entries are released in the
              order OUTPUT reads them
    """

    LATENCY = timing.ACC_READ

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "addr": Out(range(arch.acc_depth)),
                "ready": In(1),
                "data": In(data.ArrayLayout(signed(32), arch.cols)),
                "release": In(1),
            }
        )
