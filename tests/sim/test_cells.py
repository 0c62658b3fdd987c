"""Vendor's cells that the hardware instantiates itself, after synthesis and with their models: they do what
the plain logic in their place does, in the same cycles."""

import pytest
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.leaf.ice40 import PairMultiplier, SinglePortRam, WideMultiplier
from systolith.hw.leaf.multiplier import registered_product
from systolith.sim.benches.tops import component_verilog
from systolith.sim.netlist import netlist
from systolith.sim.twins import drive_at_random, side_by_side

DEVICES = {"ecp5": "LFE5U-85F", "ice40": "iCE40UP5K"}


class Product(wiring.Component):
    """`registered_product` with ports."""

    def __init__(self, a, b, takes):
        self._takes = takes
        super().__init__({"a": In(a), "b": In(b), "take": In(1), "o": Out(signed(40))})

    def elaborate(self, platform):
        m = Module()
        product = registered_product(
            m, platform, self.a, self.b, "product", take=self.take if self._takes else None
        )
        m.d.comb += self.o.eq(product)
        return m


class Ram(wiring.Component):
    """A `SinglePortRam` that shows what it reads only in the cycles in which that is defined."""

    def __init__(self, words):
        self._ram = SinglePortRam(words)
        super().__init__(dict(self._ram.signature.members.items()))

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = self._ram
        shows = Signal()
        m.d.sync += shows.eq(self.enable & ~self.write)
        m.d.comb += [
            *(
                getattr(ram, name).eq(getattr(self, name))
                for name in ("enable", "write", "addr", "data", "mask")
            ),
            self.o.eq(shows.replicate(16) & ram.o),
        ]
        return m


@pytest.mark.parametrize(
    ("family", "cell", "make"),
    [
        ("ecp5", "MULT18X18D", lambda: Product(signed(18), signed(18), True)),
        ("ecp5", "MULT18X18D", lambda: Product(unsigned(17), signed(9), False)),
        ("ecp5", "MULT18X18D", lambda: Product(signed(4), unsigned(16), True)),
        ("ice40", "SB_MAC16", PairMultiplier),
        ("ice40", "SB_MAC16", WideMultiplier),
        # Few words, so that what is read was often written.
        ("ice40", "SB_SPRAM256KA", lambda: Ram(8)),
        ("ice40", "SB_SPRAM256KA", lambda: Ram(1 << 14)),
    ],
)
def test_a_cell_does_what_plain_logic_does(family, cell, make):
    plain, top = component_verilog(make(), "cell")
    device, _ = component_verilog(make(), "cell", DEVICES[family])
    assert f"{cell} " in device[f"{top}.v"] and f"{cell} " not in plain[f"{top}.v"]
    seed = 3
    cycle = drive_at_random(side_by_side(plain, netlist(device, top, family=family), top), 20_000, seed)
    assert cycle is None, f"they differ in cycle {cycle}, seed {seed}"
