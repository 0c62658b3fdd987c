"""What the proofs of LOAD and STORE share: their core, their regions, and the walk in its place."""

import dataclasses
from typing import Any, ClassVar

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring

from systolith.hw.engine.transfer import RowWalker
from systolith.spec.arch import PRESETS, ArchConfig
from systolith.spec.isa import Engine
from tests.formal.kit.claims import Claims
from tests.formal.kit.streams import stays_offered

__all__ = ["BUS", "LANES", "TINY", "AnyWalk", "hold_regions", "lanes_of"]

TINY = dataclasses.replace(PRESETS["tiny"], bus_bits=32)
#: Bytes of a beat, and bits of a lane's number.
BUS = TINY.bus_bytes
LANES = (BUS - 1).bit_length()


def hold_regions(m: Module, claims: Claims, regions: Any) -> dict[str, tuple[Signal, Signal]]:
    """Drives a `RegionSignature` with any regions that a driver may set: they stay, bases are multiples of
    the bus's width, and they end within the address space. Returns base and size of each."""
    bounds = {}
    for name in ("program", "data"):
        window = getattr(regions, name)
        base = claims.constant(len(window.base), f"{name}_base")
        size = claims.constant(32, f"{name}_size")
        m.d.comb += [window.base.eq(base), window.size.eq(size)]
        aligned = (base & (BUS - 1)) == 0
        claims.assume(f"{name}_region", aligned & ((base + size) <= (1 << len(base))))
        bounds[name] = (base, size)
    return bounds


# Amaranth has no types, so that for mypy its components, and what derives from them, are Any.
class AnyWalk(RowWalker):  # type: ignore[misc]
    """In the place of a `RowWalker`: offers whatever the prover likes."""

    last: ClassVar["AnyWalk"]

    def __init__(self, arch: ArchConfig, engine: Engine) -> None:
        super().__init__(arch, engine)
        AnyWalk.last = self

    def elaborate(self, platform: object) -> Module:
        return Module()

    @staticmethod
    def free(m: Module, claims: Claims) -> "AnyWalk":
        """The one that was made last, with outputs that may be anything that a stream may offer."""
        walk: AnyWalk = AnyWalk.last
        for path, member, value in walk.signature.flatten(walk):
            if member.flow is wiring.Out:
                claims.open(f"walk__{'__'.join(map(str, path))}", Value.cast(value))
        pieces = walk.pieces
        stays = stays_offered(m, "pieces", pieces.valid, pieces.ready, Cat(pieces.payload, walk.failed))
        claims.assume("pieces_stay", stays)
        return walk


def lanes_of(first: Value, last: Value) -> Value:
    """Mask of the lanes from the first to the last."""
    return Cat((first <= lane) & (last >= lane) for lane in range(BUS))
