"""Registers between what makes requests to the activation SRAM and the SRAM's arbiter."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import touched_blocks
from systolith.hw.leaf.stream_register import StreamRegister
from systolith.spec.arch import ArchConfig

__all__ = ["RequestSlot"]


class RequestSlot(wiring.Component):
    """Holds up to two requests until they are granted, with the blocks that they touch; arbitration ends here.

    Parameters
    ----------
    tag : shape   what travels beside the address

    Members
    -------
    i : In(stream)         ``addr``, ``tag``
    valid, addr, tag, blocks : Out
    ready : In(1)          granted

    Timing
    ------
    A request is offered one cycle after it is accepted; one per cycle while they are granted.
    """

    def __init__(self, arch: ArchConfig, tag) -> None:
        self._arch = arch
        self._request = {"addr": range(arch.act_bytes), "tag": tag}
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(self._request))), "valid": Out(1), "addr": Out(range(arch.act_bytes)), "tag": Out(tag),
            "blocks": Out(arch.act_blocks), "ready": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        arch, given = self._arch, self.i.payload
        m.submodules.register = register = StreamRegister(data.StructLayout({**self._request, "blocks": arch.act_blocks}))
        entry, held = register.i.payload, register.o.payload
        m.d.comb += [
            register.i.valid.eq(self.i.valid), self.i.ready.eq(register.i.ready), entry.addr.eq(given.addr), entry.tag.eq(given.tag),
            entry.blocks.eq(touched_blocks(arch, given.addr)), self.valid.eq(register.o.valid), register.o.ready.eq(self.ready),
            self.addr.eq(held.addr), self.tag.eq(held.tag), self.blocks.eq(held.blocks),
        ]
        return m
