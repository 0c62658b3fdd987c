"""Dividers of the PLLs: within the data sheets' ranges, and exact."""

import pytest

from systolith.boards.clocking import ClockError, Ecp5Pll, GowinPll, Ice40Pll, XilinxPll


@pytest.mark.parametrize("degrees", [90, 270])
@pytest.mark.parametrize("clock_hz", [50_000_000, 75_000_000, 80_000_000, 100_000_000])
def test_ecp5(clock_hz, degrees):
    pll = Ecp5Pll.of(25_000_000, clock_hz)
    assert 25_000_000 * pll.feedback == clock_hz * pll.reference
    assert 400e6 <= clock_hz * pll.output <= 800e6 and 25e6 / pll.reference >= 3.125e6
    coarse, fine = pll.phase(degrees)
    # CPHASE of the first output is its divider minus 1; FPHASE counts eighths of a VCO period.
    assert ((coarse - (pll.output - 1)) * 8 + fine) * 360 == degrees * 8 * pll.output


def test_ice40():
    pll = Ice40Pll.of(12_000_000, 18_000_000)
    assert 12_000_000 * (pll.divf + 1) == 18_000_000 * (pll.divr + 1) * 2**pll.divq
    assert 533e6 <= 18e6 * 2**pll.divq <= 1066e6
    # icepll, Lattice's calculator: 12 MHz has filter range 1.
    assert pll.filter_range == 1


@pytest.mark.parametrize("clock_hz", [27_000_000, 40_500_000, 48_000_000, 54_000_000, 66_000_000])
def test_gowin(clock_hz):
    pll = GowinPll.of(27_000_000, clock_hz)
    assert 27_000_000 * pll.feedback == clock_hz * pll.reference and 27e6 / pll.reference >= 3e6
    assert 500e6 <= clock_hz * pll.output <= 1250e6 and pll.output in (
        2,
        4,
        8,
        16,
        32,
        48,
        64,
        80,
        96,
        112,
        128,
    )


@pytest.mark.parametrize(
    ("degrees", "bits"),
    [(0, "0000"), (22.5, "0001"), (180, "1000"), (270, "1100"), (292.5, "1101"), (337.5, "1111")],
)
def test_the_phase_of_gowins_pll_counts_sixteenths_of_a_period(degrees, bits):
    assert GowinPll.of(27_000_000, 48_000_000).phase(degrees) == bits


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ecp5Pll.of(25_000_000, 75_000_001),
        lambda: Ice40Pll.of(12_000_000, 1_000),
        lambda: XilinxPll.of(100_000_000, 99_999_999),
        lambda: GowinPll.of(27_000_000, 100_000_000),
        lambda: GowinPll.of(27_000_000, 3_000_000),
    ],
)
def test_what_cannot_be_made_is_refused(make):
    with pytest.raises(ClockError, match="cannot make .* MHz of .* MHz: choose another clock"):
        make()


def test_a_phase_between_the_steps_is_refused():
    with pytest.raises(ClockError, match="cannot shift by 1 degrees: choose a multiple of"):
        Ecp5Pll.of(25_000_000, 75_000_000).phase(1)
    for degrees in (1, 360, -22.5):
        with pytest.raises(
            ClockError, match=f"cannot shift by {degrees} degrees: choose a multiple of 22.5 from 0 to 337.5"
        ):
            GowinPll.of(27_000_000, 48_000_000).phase(degrees)
