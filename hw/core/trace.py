"""What a checker of a whole core observes."""

from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from systolith.hw.interfaces import AccTraceSignature, ActWriteSignature, BeatWriteSignature, chain_layout
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine

__all__ = ["TraceSignature"]


class TraceSignature(wiring.Signature):
    """What a checker observes; each item is valid in the cycle of its effect.

    Members
    -------
    load, output, vector : Out   ``valid``, ``addr``, ``data``, ``mask`` of an accepted write to the
                           activation SRAM
    weight, param, table : Out   ``valid``, ``addr`` (a beat), ``data`` of a beat that LOAD wrote there
    sums, acc : Out              ``valid``, ``addr``, ``data`` of the accumulators that MATRIX wrote, that
                OUTPUT read
    chain : Out                  ``valid``, ``data`` of a chunk that VECTOR took from OUTPUT
    done : Out                   one bit per engine: an instruction is done
    """

    def __init__(self, arch: ArchConfig) -> None:
        port = ActWriteSignature(arch).members
        write = wiring.Signature(
            {"valid": Out(1), "addr": port["addr"], "mask": port["mask"], "data": Out(8 * arch.act_width)}
        )
        super().__init__(
            {
                "load": Out(write),
                "output": Out(write),
                "vector": Out(write),
                **{
                    name: Out(
                        wiring.Signature(
                            {
                                "valid": Out(1),
                                "addr": Out(beats.members["beat"].shape),
                                "data": Out(arch.bus_bits),
                            }
                        )
                    )
                    for name, beats in self._beats(arch).items()
                },
                "sums": Out(AccTraceSignature(arch)),
                "acc": Out(AccTraceSignature(arch)),
                "chain": Out(wiring.Signature({"valid": Out(1), "data": Out(chain_layout(arch).size)})),
                "done": Out(wiring.Signature({e.name.lower(): Out(1) for e in Engine})),
            }
        )

    @staticmethod
    def _beats(arch: ArchConfig) -> dict[str, BeatWriteSignature]:
        sizes = {"weight": arch.weight_bytes, "param": arch.param_bytes, "table": arch.table_bytes}
        return {name: BeatWriteSignature(arch, size) for name, size in sizes.items()}
