"""The ULX3S's floorplan: every cell is one of the design's, and no place is taken twice or asks more of a
block than it has."""

import dataclasses
import re
import subprocess
from collections import Counter, defaultdict

import pytest

from systolith.boards.board import BOARDS
from systolith.boards.build import placement_script
from systolith.boards.tools import environment
from systolith.boards.ulx3s_85f.floorplan import floorplan
from systolith.hw.soc.system import generate_system

BOARD = BOARDS["ulx3s_85f"]
#: Tiles of the LFE5U-85F: rows of DSP blocks and of block RAMs, and where a block begins in them.
DSP_ROWS, RAM_ROWS, BLOCKS = (
    (10, 34, 58),
    (22, 46, 70, 82),
    (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114),
)


@pytest.fixture(scope="module")
def plan():
    return floorplan(BOARD.arch)


def test_every_site_is_one_of_the_part_and_taken_once(plan):
    sites = {
        f"X{block + offset}/Y{row}/MULT18_{offset}"
        for row in DSP_ROWS
        for block in BLOCKS
        for offset in (0, 1, 4, 5)
    }
    sites |= {
        f"X{block + 2 * place}/Y{row}/EBR{place}"
        for row in RAM_ROWS
        for block in BLOCKS
        for place in range(4)
    }
    assert set(plan.values()) <= sites and len(set(plan.values())) == len(plan)
    kinds = Counter(site.rsplit("/", 1)[1][:3] for site in plan.values())
    assert kinds == {"MUL": 148, "EBR": 188}


def test_a_dsp_block_has_clock_enables_for_its_multipliers(plan):
    """Four each: one that is always 1, and one for each row of the array in each quarter of its columns."""
    enables = defaultdict(set)
    for cell, site in plan.items():
        if found := re.fullmatch(r"X(\d+)/Y(\d+)/MULT18_(\d)", site):
            x, y, place = map(int, found.groups())
            of_array = re.fullmatch(r"system\.core\.matrix\.product(\d+)_(\d+)_dsp", cell)
            enables[x - place, y] |= {"always"} | (
                {(int(of_array[1]), 4 * int(of_array[2]) // BOARD.arch.cols)} if of_array else set()
            )
    assert max(map(len, enables.values())) <= 4


def test_the_multipliers_are_those_of_the_design(plan, tmp_path):
    files = generate_system(
        BOARD.arch,
        BOARD.memory,
        divisor=BOARD.divisor,
        pin_cycles=BOARD.pin_cycles,
        cache_dir=tmp_path,
        device=BOARD.part.name,
    )
    instances = re.findall(r"\b(\w+_dsp) \(", files.sources["system.v"])
    assert Counter(instances) == Counter(
        cell.rsplit(".", 1)[1] for cell, site in plan.items() if "MULT18" in site
    )


def test_another_core_is_left_to_the_placer():
    assert floorplan(dataclasses.replace(BOARD.arch, rows=4)) == {}


def test_yosys_fixes_the_cells_and_misses_none(tmp_path):
    """The commands, run by yosys: the attribute that nextpnr reads, and an error that names a cell which is
    not there."""
    yosys = environment("ecp5", tmp_path)["YOSYS"]
    (tmp_path / "t.v").write_text(
        "module t(input a, output b); LUT4 \\u.x (.A(a), .Z(b)); endmodule\nmodule LUT4(input A, output Z); "
        "endmodule\n"
    )
    for cell, succeeds in (("u.x", True), ("u.y", False)):
        (tmp_path / "t.ys").write_text(
            f"read_verilog t.v\n{placement_script({cell: 'X1/Y2/SLICEA.K0'})}\nwrite_json t.json\n"
        )
        done = subprocess.run([yosys, "-q", "t.ys"], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode == 0) == succeeds, done.stderr
        if not succeeds:
            assert cell in done.stdout + done.stderr
    assert '"BEL": "X1/Y2/SLICEA.K0"' in (tmp_path / "t.json").read_text()
