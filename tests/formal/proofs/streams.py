"""Leaves that pass a stream on."""

import dataclasses

from amaranth.hdl import Cat, Module, Signal, Value

from systolith.hw.leaf.request_slot import RequestSlot
from systolith.hw.leaf.stream_register import StreamRegister
from systolith.spec.arch import PRESETS
from tests.formal.kit.claims import Claims
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.streams import Passage, stays_offered

_REGISTER = "systolith.hw.leaf.stream_register"


@proof(
    Plant(
        "a word that waits is dropped",
        _REGISTER,
        "o.valid.eq(self.i.valid | waits)",
        "o.valid.eq(self.i.valid)",
        "in_order_and_unchanged",
    ),
    Plant(
        "an offer changes before it is taken",
        _REGISTER,
        "with m.If(~self.o.valid | self.o.ready)",
        "with m.If(~self.o.valid | self.o.ready | waits)",
        "offer_stays",
    ),
)
def stream_register(m: Module, claims: Claims) -> None:
    """Passes on what it takes, once, in order and unchanged; an offer stays until it is taken; there is room
    for two."""
    register = StreamRegister(8)
    inside = claims.design("register", register)
    i, o = register.i, register.o
    passage = Passage(
        m,
        claims,
        capacity=2,
        enters=i.valid & i.ready,
        entry=i.payload,
        leaves=o.valid & o.ready,
        exit=o.payload,
    )
    claims.claim("offer_stays", stays_offered(m, "offer", o.valid, o.ready, o.payload))
    claims.claim("takes_unless_full", i.ready | (passage.count == RequestSlot.DEPTH))
    passage.in_register(inside, "")


#: An activation SRAM whose vectors of four bytes may lie in two of its four blocks.
_BLOCKS = dataclasses.replace(PRESETS["tiny"], act_bytes=1024, act_blocks=4)


@proof(
    Plant(
        "a vector's last byte is left out of its blocks",
        "systolith.hw.interfaces",
        "(addr + (arch.act_width - 1))[first:size]",
        "(addr + (arch.act_width - 2))[first:size]",
        "blocks_are_those_of_its_bytes",
    ),
    Plant(
        "the blocks are not held",
        "systolith.hw.leaf.request_slot",
        "self.blocks.eq(held.blocks)",
        "self.blocks.eq(entry.blocks)",
        "blocks_are_those_of_its_bytes",
    ),
)
def request_slot(m: Module, claims: Claims) -> None:
    """Passes on requests, once, in order and unchanged, two at most; beside each the blocks of the activation
    SRAM in which any of its bytes lies, and no other; an offer stays until it is granted."""
    arch = _BLOCKS
    slot = RequestSlot(arch, 4)
    inside = claims.design("slot", slot)
    offered = Cat(slot.addr, slot.tag)
    passage = Passage(
        m,
        claims,
        capacity=RequestSlot.DEPTH,
        enters=slot.i.valid & slot.i.ready,
        entry=slot.i.payload,
        leaves=slot.valid & slot.ready,
        exit=offered,
    )

    def right(addr: Value, blocks: Value, name: str) -> Value:
        """`blocks` has the bits of those in which the bytes from `addr` on lie, wrapped at the SRAM's end."""
        touched = Signal(arch.act_blocks, name=f"touched_{name}")
        hits = [((addr + byte)[: len(slot.addr)] // arch.act_block_bytes) for byte in range(arch.act_width)]
        m.d.comb += touched.eq(Cat(Cat(hit == i for hit in hits).any() for i in range(arch.act_blocks)))
        return blocks == touched

    claims.claim("blocks_are_those_of_its_bytes", ~slot.valid | right(slot.addr, slot.blocks, "offered"))
    claims.claim("offer_stays", stays_offered(m, "offer", slot.valid, slot.ready, Cat(offered, slot.blocks)))
    passage.in_register(inside, "register", slice(len(offered)))
    for at, place in enumerate((inside["register.first"], inside["register.second"])):
        addr, blocks = place[: len(slot.addr)], place[len(offered) :]
        claims.invariant(f"blocks{at}", (passage.count <= at) | right(addr, blocks, str(at)))
