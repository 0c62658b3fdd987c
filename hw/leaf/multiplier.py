"""Multipliers with registers before and behind, which are a DSP block's own where synthesis would leave those
unused."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Shape, Signal, Value, signed

__all__ = ["registered_product"]

#: Operand bits of an ECP5's MULT18X18D.
_ECP5_BITS = 18


def registered_product(m: Module, platform, a, b, name: str, *, take=None) -> Signal:
    """``a * b``, `timing.PRODUCT` cycles later, one per cycle: operands and product are registered.

    Multipliers lie where the device has them, so with these registers a wire there and one from there are on
    no path together.

    Parameters
    ----------
    platform    what the module is elaborated for; where its `device` begins with ``LFE5U`` and the operands
    fit, an instance of MULT18X18D, with the
                names of Lattice's "ECP5 and ECP5-5G sysDSP Usage Guide" (FPGA-TN-02205), since Yosys infers
                one without its registers
    a, b        operands
    take        `b` is taken at the end of the cycles in which it is 1; None: of every cycle
    name : str  name of the product's register; those of the operands have ``_a`` and ``_b`` after it
    """
    a, b = (
        value if value.shape().signed else Cat(value, Const(0, 1)).as_signed()
        for value in map(Value.cast, (a, b))
    )
    product = Signal(signed(len(a) + len(b)), name=name, reset_less=True)
    if str(getattr(platform, "device", "")).startswith("LFE5U") and max(len(a), len(b)) <= _ECP5_BITS:
        m.submodules[f"{name}_dsp"] = _ecp5(a, b, product, Const(1, 1) if take is None else take)
        return product
    late_a, late_b = (
        Signal(Shape.cast(value.shape()), name=f"{name}_{letter}", reset_less=True)
        for value, letter in ((a, "a"), (b, "b"))
    )
    m.d.sync += [late_a.eq(a), product.eq(late_a * late_b)]
    with m.If(1 if take is None else take):
        m.d.sync += late_b.eq(b)
    return product


def _ecp5(a: Value, b: Value, product: Signal, take: Value) -> Instance:
    """A DSP block with registered operands, the second with an enable, and a registered result."""
    # The operands lie in the high bits, so that the others are constants and not copies of the sign.
    first, second = (
        Cat(Const(0, _ECP5_BITS - len(value)), value) if len(value) < _ECP5_BITS else value
        for value in (a, b)
    )
    registers = {
        f"p_REG_{of}_{what}": value
        for of, enable in (("INPUTA", "CE1"), ("INPUTB", "CE0"), ("OUTPUT", "CE1"))
        for what, value in (("CLK", "CLK0"), ("CE", enable), ("RST", "RST0"))
    }
    low = 2 * _ECP5_BITS - len(product)
    return Instance(
        "MULT18X18D",
        **registers,
        p_GSR="DISABLED",
        i_CLK0=ClockSignal(),
        i_CE0=take,
        i_CE1=Const(1),
        i_RST0=Const(0),
        i_SIGNEDA=Const(1),
        i_SIGNEDB=Const(1),
        i_SOURCEA=Const(0),
        i_SOURCEB=Const(0),
        **{f"i_A{bit}": first[bit] for bit in range(_ECP5_BITS)},
        **{f"i_B{bit}": second[bit] for bit in range(_ECP5_BITS)},
        **{f"o_P{low + bit}": product[bit] for bit in range(len(product))},
    )
