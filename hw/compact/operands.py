"""How instructions reach the engines of a compact core: beat by beat, each engine picking its operands."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import HwErrorCode, field_shape
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import isa_for

__all__ = ["UnitSignature", "capture", "operand"]


class UnitSignature(wiring.Signature):
    """Between dispatch (initiator) and one unit.

    Members
    -------
    load, index, data : Out   beat `index` of an instruction for this unit, only while it is idle
    begin : Out(1)            in a cycle after its last beat: execute it
    done : In(1)              pulses with the last effect
    error, error_code : In    pulses: it cannot be executed. What is in flight may still be written; the
                              dispatcher gives the unit nothing more until reset
    """

    def __init__(self, arch: ArchConfig) -> None:
        beats = isa_for(arch).word_bytes // arch.bus_bytes
        super().__init__(
            {
                "load": Out(1),
                "index": Out(range(beats)),
                "data": Out(arch.bus_bits),
                "begin": Out(1),
                "done": In(1),
                "error": In(1),
                "error_code": In(HwErrorCode),
            }
        )


def operand(arch: ArchConfig, mnemonic: str, name: str, **kwargs) -> Signal:
    """A register for one operand, as encoded."""
    field = next(f for f in isa_for(arch).by_mnemonic[mnemonic].fields if f.name == name)
    return Signal(field_shape(field), name=name, reset_less=True, **kwargs)


def capture(m: Module, arch: ArchConfig, unit, mnemonic: str, targets: dict[str, Signal]) -> None:
    """Fill registers from the beats of an instruction: operand name to target, which may be wider."""
    position = 0
    for field in isa_for(arch).fields(mnemonic):
        target = targets.get(field.name)
        if target is not None:
            first = position // arch.bus_bits
            last = (position + field.bits - 1) // arch.bus_bits
            for beat in range(first, last + 1):
                low = max(position, beat * arch.bus_bits)
                high = min(position + field.bits, (beat + 1) * arch.bus_bits)
                with m.If(unit.load & (unit.index == beat)):
                    m.d.sync += target[low - position : high - position].eq(
                        unit.data[low - beat * arch.bus_bits : high - beat * arch.bus_bits]
                    )
            if len(target) > field.bits:
                with m.If(unit.load & (unit.index == last)):
                    m.d.sync += target[field.bits :].eq(0)
        position += field.bits
