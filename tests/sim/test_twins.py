"""Two descriptions side by side: a difference is found, in its cycle, and named."""

import pytest

from systolith.sim.twins import drive_at_random, side_by_side
from systolith.sim.verilator import SimulationError

COUNTER = """\
module counter(clk, rst, step, wide, count, odd);
  input clk; input rst; input step; input [39:0] wide;
  output [7:0] count; output odd;
  reg [7:0] count = 0;
  assign odd = count[0] ^ wide[39];
  always @(posedge clk) count <= rst ? 0 : step ? count + 1 : count;
endmodule
"""


def pair(change=("", "")):
    """A counter beside another one."""
    assert change[0] in COUNTER
    return side_by_side({"a.v": COUNTER}, {"a.v": COUNTER.replace(*change)}, "counter")


def test_equal_designs_never_differ():
    assert drive_at_random(pair(), 5000, seed=1) is None


@pytest.mark.parametrize(
    ("change", "earliest"),
    [(("count[0] ^", "count[1] ^"), 3), (("count + 1", "count + 1 + (count == 200)"), 200)],
)
def test_a_difference_is_found_when_it_comes(change, earliest):
    cycle = drive_at_random(pair(change), 5000, seed=1)
    assert cycle is not None and earliest <= cycle < 4000
    # The same seed finds the same cycle.
    assert drive_at_random(pair(change), 5000, seed=1) == cycle
    assert drive_at_random(pair(change), cycle, seed=1) is None


def test_other_ports_are_refused():
    with pytest.raises(SimulationError, match="^the two descriptions of counter have different ports$"):
        pair(("[39:0] wide", "[38:0] wide"))


def test_a_wide_input_is_refused():
    text = COUNTER.replace("[39:0]", "[64:0]")
    design = side_by_side({"a.v": text}, {"a.v": text}, "counter")
    with pytest.raises(SimulationError, match="^input wide of counter_twins has more than 64 bits$"):
        drive_at_random(design, 10, seed=1)
