"""What instructions touch: the machine observed, beside the list of the proof of order and that of its maker.

How much larger than what is touched an interval of `footprint` may be:

- Where it would pass the end of the activation SRAM, it is the whole SRAM.
- A window's interval reaches at each end at most one step of the window further than what is inside it. Where
  its rows do not lie one pitch apart, or a step goes backwards, which the compiler never does, nothing is
  promised. One that is all padding counts as one vector.
- All others are exact: from the first byte to the last.
- Together, those of a compiled program have at most a tenth more bytes than what is touched.
"""

import numpy as np
import pytest

from systolith.compiler.driver import compile_levels
from systolith.reference import footprint as maker
from systolith.reference.accesses import accesses
from systolith.spec.arch import PRESETS
from tests.graphs import ARCHS, CompactGraphs, random_graph
from tests.reference.observer import Observer
from tests.reference.plants import PLANTS
from tests.reference.programs import DATA_BYTES, ProgramMaker

COMPACT = {name: arch for name, arch in PRESETS.items() if arch.compact}
CORES = {name: ARCHS[name] for name in ("tiny", "wide", "nodw", "bus64", "array32")} | COMPACT
each_core = pytest.mark.parametrize("core", CORES)


def random_program(core, seed):
    """A program that nobody compiled, and what executes it; what it touches does not depend on data."""
    arch = CORES[core]
    regions = np.zeros((2, DATA_BYTES), np.uint8)
    return ProgramMaker(arch, seed).program(60), Observer(arch, *regions)


def compiled_program(core, seed):
    """The load and run streams of a random graph, and what executes them."""
    arch = CORES[core]
    compilation = compile_levels(CompactGraphs(seed).build() if arch.compact else random_graph(seed), arch)
    image = compilation.image
    program, data = np.frombuffer(image.program, np.uint8), np.zeros(image.data_bytes, np.uint8)
    return [*compilation.load, *compilation.part.run], Observer(arch, program, data)


def programs(core):
    """Every program of a core, with a name that finds it again."""
    for make, count in ((random_program, 3), (compiled_program, 4)):
        for seed in range(count):
            instrs, machine = make(core, seed)
            yield f"{make.__name__}({core!r}, {seed})", make is compiled_program, instrs, machine


def listed(instr, arch):
    """What `accesses` says, as `Observer.observe` does."""
    cells = {}
    for access in accesses(instr, arch):
        cells.setdefault((access.space, access.writes), []).append(access.cells())
    return {key: np.unique(np.concatenate(parts)) for key, parts in cells.items()}


@each_core
def test_the_proof_of_order_lists_exactly_what_the_machine_touches(core):
    seen = set()
    for where, _, instrs, machine in programs(core):
        for number, instr in enumerate(instrs):
            touched, expected = listed(instr, machine.arch), machine.observe(instr)
            seen.add(instr.mnemonic)
            assert touched.keys() == expected.keys(), f"{where}, instruction {number}: {instr}"
            for key, cells in expected.items():
                np.testing.assert_array_equal(
                    touched[key], cells, f"{where}, instruction {number}, {key}: {instr}"
                )
    assert seen >= set(machine.isa.by_mnemonic) - {"NOP"}


def uncovered(touched, prints):
    """The (space, written) of which something lies in no interval; a read may lie in what is written."""
    for (space, writes), cells in touched.items():
        inside = np.zeros(cells.shape, bool)
        for of, low, high, written in prints:
            if of == space and (written or not writes):
                inside |= (cells >= low) & (cells < high)
        if not inside.all():
            yield space, writes


@each_core
def test_the_footprint_covers_what_the_machine_touches(core):
    for where, _, instrs, machine in programs(core):
        for number, instr in enumerate(instrs):
            missing = [*uncovered(machine.observe(instr), maker.footprint(instr, machine.arch))]
            assert not missing, f"{where}, instruction {number}, {missing}: {instr}"


def window_step(instr, arch):
    """The longest step of a window, in bytes; None: its rows have no one pitch, or a step goes backwards."""
    pool = instr.mnemonic == "POOL"
    oy, ox, kt = (instr.ny, instr.nx, 1) if pool else (instr.oy, instr.ox, instr.kt)
    down = [
        (step, y)
        for count, step, y in ((instr.ky, instr.ky_addr, instr.ky_y), (oy, instr.oy_addr, instr.oy_y))
        if count > 1
    ]
    across = [
        step for count, step in ((instr.kx, instr.kx_x), (ox, instr.ox_x), (kt, arch.rows)) if count > 1
    ]
    steps = [step for step, _ in down] + across
    # A copy stays in the row where it begins: its steps down are no rows of an image.
    down = [(step, y) for step, y in down if y or not pool or instr.height > 1]
    pitches = {step // y if y and step % y == 0 else None for step, y in down}
    if max(steps, default=0) > arch.act_bytes // 2 or len(pitches) > 1 or None in pitches:
        return None
    return max(steps, default=0)


def too_large(instr, arch, interval, hulls):
    """Whether an interval is larger than promised beside each hull of what is touched."""
    space, low, high, _ = interval
    window = space == "act" and not interval[3] and instr.mnemonic in ("MATMUL", "POOL")
    step = window_step(instr, arch) if window else 0
    if step is None:
        return False
    for _, first, end, _ in hulls:
        both_ends = end - first > arch.act_bytes // 2 or first - step < 0 or end + step > arch.act_bytes
        whole = space == "act" and (low, high) == (0, arch.act_bytes) and both_ends
        if whole or (low <= first and end <= high and high - low <= end - first + 2 * step):
            return False
    # A window that is all padding touches nothing: its interval is a vector with a step at each end.
    vector = instr.operands.get("bytes", max(arch.rows, arch.cols))
    return not window or bool(hulls) or high - low > 2 * step + vector


@each_core
def test_the_footprint_is_not_much_larger(core):
    for where, compiled, instrs, machine in programs(core):
        arch, footprints, touched = machine.arch, 0, 0
        for number, instr in enumerate(instrs):
            hulls = [access.hull() for access in accesses(instr, arch)]
            for interval in maker.footprint(instr, arch):
                of = [hull for hull in hulls if hull[0] == interval[0] and hull[3] == interval[3]]
                assert not too_large(instr, arch, interval, of), (
                    f"{where}, instruction {number}, {interval}: {instr}"
                )
                footprints += interval[2] - interval[1]
            if compiled and instr.mnemonic in ("MATMUL", "POOL"):
                assert window_step(instr, arch) is not None, f"{where}, instruction {number}: {instr}"
            # What is read and written counts once.
            touched += sum(end - first for _, first, end, _ in {(*hull[:3], True) for hull in hulls})
        assert not compiled or footprints <= 1.1 * touched, f"{where}: {footprints} beside {touched}"


@pytest.mark.parametrize("plant", PLANTS)
def test_a_footprint_that_leaves_something_out_is_found(plant):
    planted = PLANTS[plant]

    def found(core):
        return any(
            [*uncovered(machine.observe(instr), planted(instr, machine.arch))]
            for _, _, instrs, machine in programs(core)
            for instr in instrs
        )

    assert found("tiny")


@pytest.mark.parametrize("mnemonic", ["LOAD", "STORE", "MATMUL", "OUTPUT", "ADD", "MUL", "POOL", "CELL"])
def test_a_footprint_that_is_too_large_is_found(mnemonic, monkeypatch):
    right = maker.footprint

    def planted(instr, arch):
        return [
            (space, low - (instr.mnemonic == mnemonic and space == "act"), high, writes)
            for space, low, high, writes in right(instr, arch)
        ]

    monkeypatch.setattr(maker, "footprint", planted)
    with pytest.raises(AssertionError, match=mnemonic):
        test_the_footprint_is_not_much_larger("tiny")
