"""Registers between what makes requests to the activation SRAM and the SRAM's arbiter."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import touched_blocks
from systolith.hw.leaf.stream_register import StreamRegister
from systolith.spec.arch import ArchConfig

__all__ = ["RequestSlot"]


class RequestSlot(wiring.Component):
    """Holds up to two requests until they are granted, with the blocks that they touch; arbitration ends
    here.

    Parameters
    ----------
    tag : shape   what travels beside the address, or None

    Members
    -------
    i : In(stream)         ``addr``, ``tag``
    valid, addr, blocks : Out
    tag : Out              where there is one
    ready : In(1)          granted

    Timing
    ------
    A request is offered one cycle after it is accepted; one per cycle while they are granted.
    """

    #: Requests that it holds at most.
    DEPTH = 2

    def __init__(self, arch: ArchConfig, tag=None) -> None:
        self._arch = arch
        self._request = {"addr": range(arch.act_bytes), **({} if tag is None else {"tag": tag})}
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout(self._request))),
                "valid": Out(1),
                **{name: Out(shape) for name, shape in self._request.items()},
                "blocks": Out(arch.act_blocks),
                "ready": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch, given = self._arch, self.i.payload
        m.submodules.register = register = StreamRegister(
            data.StructLayout({**self._request, "blocks": arch.act_blocks})
        )
        entry, held = register.i.payload, register.o.payload
        m.d.comb += [
            register.i.valid.eq(self.i.valid),
            self.i.ready.eq(register.i.ready),
            self.valid.eq(register.o.valid),
            register.o.ready.eq(self.ready),
            entry.blocks.eq(touched_blocks(arch, given.addr)),
            self.blocks.eq(held.blocks),
            *(entry[name].eq(given[name]) for name in self._request),
            *(getattr(self, name).eq(held[name]) for name in self._request),
        ]
        return m
