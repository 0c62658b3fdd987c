"""What the report makes of nextpnr's."""

import json

import pytest

from systolith.boards.board import BOARDS
from systolith.boards.report import from_nextpnr, from_yosys

BOARD = BOARDS["ulx3s_85f"]


def nextpnr(achieved):
    """A report in nextpnr's form, shortened."""

    def step(kind, delay, **more):
        return {
            "type": kind,
            "delay": delay,
            "from": {"cell": "a"},
            "to": {"cell": "system.core.output.sum_TRELLIS_FF_Q_3"},
            **more,
        }

    clock = "posedge $glbnet$sync"
    return {
        "utilization": {
            "TRELLIS_COMB": {"used": 41_000, "available": 83_640},
            "TRELLIS_FF": {"used": 21_000, "available": 83_640},
            "MULT18X18D": {"used": 140, "available": 156},
            "DP16KD": {"used": 180, "available": 208},
        },
        "fmax": {
            "$glbnet$sync": {"achieved": achieved, "constraint": 75.0},
            "$glbnet$clk25": {"achieved": 400.0, "constraint": 25.0},
        },
        "critical_paths": [
            {
                "from": clock,
                "to": clock,
                "path": [
                    step("clk-to-q", 0.5),
                    step("routing", 1.5, net="system.core.output.level_LUT4_A_Z"),
                    step("setup", 0.25),
                ],
            },
            {"from": "<async>", "to": clock, "path": [step("routing", 99.0, net="rx")]},
        ],
    }


def test_resources_clock_and_path():
    report = from_nextpnr(BOARD, nextpnr(81.25))
    assert report.used == {
        "LUT4": (41_000, 83_640),
        "registers": (21_000, 83_640),
        "DSP (18x18)": (140, 156),
        "block RAM (18 kbit)": (180, 208),
    }
    assert report.clock_hz == pytest.approx(81.25e6) and report.reaches_clock
    assert [step.name for step in report.path] == [
        "system.core.output.sum",
        "system.core.output.level",
        "system.core.output.sum",
    ]
    assert report.as_dict()["path_ns"] == 2.25


def test_a_clock_that_is_missed():
    assert not from_nextpnr(BOARD, nextpnr(74.9)).reaches_clock


def test_inferences_are_counted_at_the_boards_clock():
    (entry,) = from_nextpnr(BOARD, nextpnr(120.0)).with_models({"kws": 30_000}).models
    assert entry == {"model": "kws", "cycles": 30_000, "inferences_per_second": 2500.0}


@pytest.mark.parametrize(("large", "excess"), [(100, ()), (110, ("block RAM (18 kbit)",))])
def test_what_yosys_counts_against_what_the_part_has(large, excess):
    """A block RAM of 36 kbit is two of 18."""
    cells = {"LUT2": 5, "LUT6": 7, "FDRE": 3, "DSP48E1": 168, "RAMB36E1": large, "RAMB18E1": 60}
    report = from_yosys(BOARDS["arty_a7_100t"], json.dumps({"design": {"num_cells_by_type": cells}}))
    assert report.used == {
        "LUT": (12, 63_400),
        "registers": (3, 126_800),
        "DSP48E1": (168, 240),
        "block RAM (18 kbit)": (2 * large + 60, 270),
    }
    assert report.excess == excess and report.reaches_clock


def test_what_a_gowin_has_is_counted_in_places_of_luts_and_of_narrow_multipliers():
    """In its report an adder's bit and a RAM of 16 x 4 bits are other things than a LUT4, and each says what
    it could be used for alone."""
    report = {
        "utilization": {
            "LUT4": {"used": 5_000, "available": 20_736},
            "ALU": {"used": 1_600, "available": 15_552},
            "RAM16SDP4": {"used": 50, "available": 648},
            "DFF": {"used": 2_600, "available": 15_552},
            "MULT9X9": {"used": 14, "available": 96},
            "MULT18X18": {"used": 1, "available": 48},
            "BSRAM": {"used": 43, "available": 46},
        },
        "fmax": {"clk": {"achieved": 80.0, "constraint": 48}},
        "critical_paths": [],
    }
    assert from_nextpnr(BOARDS["tang_nano_20k"], report).used == {
        "LUT4": (6_800, 20_736),
        "registers": (2_600, 15_552),
        "DSP (9x9)": (16, 96),
        "block RAM (18 kbit)": (43, 46),
    }
