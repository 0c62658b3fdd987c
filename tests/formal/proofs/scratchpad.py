"""The ports of the activation SRAM."""

import dataclasses

from amaranth.hdl import Cat, Module, Mux

from systolith.hw.core.scratchpad import Scratchpad
from systolith.spec.arch import PRESETS
from tests.formal.kit.claims import Claims
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof

#: Four blocks; what matters is which of them a port wants.
_BLOCKS = dataclasses.replace(PRESETS["tiny"], act_bytes=1024, act_blocks=4)


@proof(
    Plant(
        "the last port looks at the one before only",
        "systolith.hw.core.scratchpad",
        "taken = taken | Mux(port.valid, needed, 0)",
        "taken = Mux(port.valid, needed, 0)",
        "a_block_is_of_one",
    ),
    Plant(
        "a port waits for one that wants nothing",
        "systolith.hw.core.scratchpad",
        "taken = taken | Mux(port.valid, needed, 0)",
        "taken = taken | needed",
        "none_waits_without_need",
    ),
)
def scratchpad_ports(m: Module, claims: Claims) -> None:
    """The activation SRAM grants a block to one read and one write in a cycle; a port waits only for one
    before it that wants a block of its own; reads of the array, and writes of the output stage, never
    wait."""
    pad = Scratchpad(_BLOCKS)
    inside = claims.design("pad", pad)
    reads, writes = (
        (pad.matrix_read, pad.vector_read, pad.store_read),
        (
            pad.output_write,
            pad.vector_write,
            pad.load_write,
        ),
    )
    claims.claim("the_first_never_waits", pad.matrix_read.ready & pad.output_write.ready)
    alone, needed = [], []
    for kind, ports in (("read", reads), ("write", writes)):
        for index, port in enumerate(ports):
            before = ports[:index]
            shared = Cat(other.valid & (other.blocks & port.blocks).any() for other in before).any()
            needed.append(port.ready | shared)
            alone += [
                ~(port.valid & port.ready & other.valid & other.ready) | ~(port.blocks & other.blocks).any()
                for other in before
            ]
            # What reaches the blocks is what was granted.
            driven = inside[f"{kind}_select{index}"]
            claims.invariant(
                f"{kind}{index}_drives_its_blocks",
                driven == Mux(port.valid & port.ready, port.blocks, 0),
            )
        claims.cover(f"two_{kind}s", ports[1].valid & ports[1].ready & ports[2].valid & ports[2].ready)
    claims.claim("a_block_is_of_one", Cat(alone).all())
    claims.claim("none_waits_without_need", Cat(needed).all())
