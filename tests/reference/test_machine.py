"""The machine, instruction by instruction, against loops over Python integers written from docs/isa.md.

Every test compares whole memories, so a byte written beside its place fails too.
"""

import itertools

import numpy as np
import pytest

from systolith.reference.params import pack_params
from systolith.spec.isa import Destination, Mode, OperandA, Region, Space
from tests.reference.machine_bench import (
    Bench,
    every_arch,
    every_seed,
    execute,
    rounded,
    state,
)


# -- LOAD and STORE
# -----------------------------------------------------------------------------------------------------
def transfer(bench, unit, size, shape):
    """A transfer of random rows that neither leaves an SRAM of `size` bytes nor the 512 bytes of a region."""
    length = unit * bench.pick(1, max(1, 12 // unit))
    steps = [unit * bench.pick(0, 40 // unit) for _ in range(4)]
    (planes, rows), (ext_plane, ext_row, plane, row) = shape, steps
    return dict(
        planes=planes,
        rows=rows,
        bytes=length,
        ext_plane=ext_plane,
        ext_row=ext_row,
        plane=plane,
        row=row,
        offset=unit * bench.pick(0, (512 - length - (planes - 1) * ext_plane - (rows - 1) * ext_row) // unit),
        base=unit * bench.pick(0, (size - length - (planes - 1) * plane - (rows - 1) * row) // unit),
    )


def places(instr):
    """(external, on chip) of each byte, in order."""
    for p, r, i in itertools.product(range(instr.planes), range(instr.rows), range(instr.bytes)):
        yield (
            instr.offset + p * instr.ext_plane + r * instr.ext_row + i,
            instr.base + p * instr.plane + r * instr.row + i,
        )


SPACES = {Space.ACT: "act", Space.WEIGHT: "weight", Space.PARAM: "param", Space.TABLE: "table"}


@every_arch
@every_seed
@pytest.mark.parametrize("space", Space)
def test_load_copies_rows_of_either_region(arch, seed, space):
    bench = Bench(arch, seed)
    name, region = SPACES[space], bench.pick(0, 1)

    def expected(instr, before):
        target = before[name].copy().view(np.uint8)
        for outside, inside in places(instr):
            target[inside] = before[Region(region).name][outside]
        return {name: target.view(before[name].dtype)}

    unit = 1 if space == Space.ACT else arch.bus_bytes
    size = min(512, len(getattr(bench.machine, name)))
    shape = (bench.pick(1, 3), bench.pick(1, 3))
    execute(bench, "LOAD", expected, space=space, region=region, **transfer(bench, unit, size, shape))


@every_arch
@every_seed
def test_store_copies_rows_into_data(arch, seed):
    bench = Bench(arch, seed)

    def expected(instr, before):
        data = before["DATA"].copy()
        for outside, inside in places(instr):
            data[outside] = int(before["act"][inside]) & 255
        return {"DATA": data}

    shape = (bench.pick(1, 3), bench.pick(1, 3))
    execute(bench, "STORE", expected, region=Region.DATA, **transfer(bench, 1, arch.act_bytes, shape))


@every_arch
def test_steps_of_a_transfer_may_go_backwards(arch):
    bench = Bench(arch, 0)
    width = next(f.bits for f in bench.isa.by_mnemonic["LOAD"].fields if f.name == "base")

    def expected(instr, before):
        act = before["act"].copy()
        for r in range(3):
            act[40 - 8 * r : 44 - 8 * r] = before["DATA"][100 - 10 * r : 104 - 10 * r].view(np.int8)
        return {"act": act}

    back = dict(ext_row=(1 << 32) - 10, row=(1 << width) - 8)
    execute(bench, "LOAD", expected, region=Region.DATA, offset=100, base=40, rows=3, bytes=4, **back)


# -- MATMUL
# ------------------------------------------------------------------------------------------------------------
def matmul_operands(bench, mode):
    depthwise = mode == Mode.DEPTHWISE
    shape = dict(ky=bench.pick(1, 3), kx=bench.pick(1, 2), kt=1 if depthwise else bench.pick(1, 2))
    size = dict(oy=bench.pick(1, 3), ox=bench.pick(1, 6))
    tap = dict(taps=bench.pick(1, bench.arch.rows), stride=bench.pick(1, 3)) if depthwise else {}
    return dict(
        mode=mode,
        base=bench.address(),
        y0=bench.pick(-2, 1),
        x0=bench.pick(-12, 6),
        height=bench.pick(0, 5),
        row_bytes=bench.pick(0, 40),
        pad=bench.int8(),
        ky_y=bench.pick(0, 2),
        oy_y=bench.pick(0, 2),
        tile=bench.pick(0, bench.arch.weight_tiles - 12),
        acc=bench.pick(0, 100),
        accumulate=bench.pick(0, 1),
        final=bench.pick(0, 1),
        high=bench.pick(0, 1),
        **bench.steps("ky_addr", "kx_x", "oy_addr", "ox_x"),
        **shape,
        **size,
        **tap,
    )


def byte_at(instr, arch, act, oy, ox, ky, kx, kt, lane):
    """One byte that enters the array."""
    y = instr.y0 + ky * instr.ky_y + oy * instr.oy_y
    across = kx * instr.kx_x + kt * arch.rows + ox * instr.ox_x + lane
    if not (0 <= y < instr.height and 0 <= instr.x0 + across < instr.row_bytes):
        return instr.pad
    return int(act[(instr.base + across + ky * instr.ky_addr + oy * instr.oy_addr) % arch.act_bytes])


def sums_of(instr, arch, before):
    """Accumulators afterwards, and the entries that were written, in order."""
    acc, act, weight = before["acc"].astype(object), before["act"], before["weight"]
    depthwise = instr.mode == Mode.DEPTHWISE
    tile, first = instr.tile, not instr.accumulate
    entries = []
    for ky, kx, kt in itertools.product(range(instr.ky), range(instr.kx), range(instr.kt)):
        entries = []
        for oy, ox in itertools.product(range(instr.oy), range(instr.ox)):
            if ox < instr.taps - 1 or (ox - instr.taps + 1) % instr.stride:
                continue
            entry = instr.acc + len(entries)
            entries.append(entry)
            for c in range(arch.cols):
                total = 0
                for r in range(arch.rows):
                    w = int(weight[tile * arch.tile_bytes + arch.weight_offset(r, c)])
                    # With weights only in the taps, no vector before the row's first is needed.
                    vector, lane = (ox - r, c) if depthwise else (ox, r)
                    total += w * byte_at(instr, arch, act, oy, vector, ky, kx, kt, lane) if w else 0
                acc[entry, c] = total * (256 if instr.high else 1) + (0 if first else acc[entry, c])
        tile, first = tile + 1, False
    return ((acc + (1 << 31)) % (1 << 32) - (1 << 31)).astype(np.int32), entries


@every_arch
@every_seed
@pytest.mark.parametrize("mode", Mode)
def test_matmul_sums_over_the_window(arch, seed, mode):
    bench = Bench(arch, seed)
    operands = matmul_operands(bench, mode)
    if mode == Mode.DEPTHWISE:
        # Rows of a tile beyond the taps hold no weights.
        for tile, r, c in itertools.product(
            range(arch.weight_tiles), range(operands["taps"], arch.rows), range(arch.cols)
        ):
            bench.machine.weight[tile * arch.tile_bytes + arch.weight_offset(r, c)] = 0
    before = state(bench.machine)
    instr = execute(
        bench, "MATMUL", lambda instr, before: {"acc": sums_of(instr, arch, before)[0]}, **operands
    )
    released = sums_of(instr, arch, before)[1] if instr.final else []
    assert list(bench.machine.released) == released


@every_arch
@pytest.mark.parametrize(("value", "weight"), [(-128, -128), (127, -128), (-128, 127)])
def test_matmul_of_extreme_values_is_exact_and_wraps_only_at_32_bits(arch, value, weight):
    bench = Bench(arch, 0)
    bench.machine.act[:], bench.machine.weight[:] = value, weight
    bench.machine.acc[:] = (1 << 31) - 1
    window = dict(height=1, row_bytes=arch.act_bytes, kt=4)
    once = 4 * arch.rows * value * weight
    bench.machine.execute(bench.isa.make("MATMUL", **window))
    assert set(bench.machine.acc[0]) == {once}
    bench.machine.execute(bench.isa.make("MATMUL", accumulate=1, acc=1, **window))
    assert set(bench.machine.acc[1]) == {((1 << 32) - 1 + once) % (1 << 32) - (1 << 31)}


# -- OUTPUT
# ------------------------------------------------------------------------------------------------------------
def give_params(bench, entry, **fields):
    """Fill one entry of the parameter SRAM; returns the fields."""
    cols, line = bench.arch.cols, bench.arch.param_line_bytes
    fields = (
        dict(
            bias=bench.rng.integers(-(1 << 31), 1 << 31, cols),
            mult=bench.rng.integers(0, 1 << 16, cols),
            shift=bench.rng.integers(0, 64, cols),
        )
        | fields
    )
    bench.machine.param[entry * line : (entry + 1) * line] = np.frombuffer(
        pack_params(cols, **fields), np.uint8
    )
    return fields


def output_of(bench, instr, fields, pixel, c):
    total = (int(bench.machine.acc[instr.acc + pixel, c]) + int(fields["bias"][c])) * int(fields["mult"][c])
    return bench.looked_up(rounded(total, fields["shift"][c], instr.zero, instr.low, instr.high), instr)


@every_arch
@every_seed
def test_output_requantises_and_keeps_some_channels(arch, seed):
    bench = Bench(arch, seed)
    # Sums of a few thousand, so that results are spread over all of int8 and over its ends.
    bench.machine.acc[:] = bench.rng.integers(-9000, 9000, bench.machine.acc.shape)
    entry, ny, nx, acc = bench.pick(0, 7), bench.pick(1, 3), bench.pick(1, 4), bench.pick(0, 100)
    small = dict(
        bias=bench.rng.integers(-3000, 3000, arch.cols),
        mult=bench.rng.integers(1 << 15, 1 << 16, arch.cols),
        shift=bench.rng.integers(20, 25, arch.cols),
    )
    fields = give_params(bench, entry, **(small if seed % 3 else {}))
    bench.machine.released.extend(range(acc, acc + ny * nx + 2))

    def expected(instr, before):
        act = before["act"].copy()
        for y, x, c in itertools.product(range(ny), range(nx), range(instr.channels)):
            address = (instr.dst + y * instr.dst_row + x * instr.dst_px + c) % arch.act_bytes
            act[address] = output_of(bench, instr, fields, y * nx + x, c)
        return {"act": act}

    execute(
        bench,
        "OUTPUT",
        expected,
        acc=acc,
        ny=ny,
        nx=nx,
        channels=bench.pick(1, arch.cols),
        param=entry,
        dst=bench.address(),
        **bench.steps("dst_row", "dst_px"),
        **bench.result(),
    )
    assert list(bench.machine.released) == [acc + ny * nx, acc + ny * nx + 1]


@every_arch
@pytest.mark.parametrize(
    ("sums", "shift", "want"),
    [
        ([1, 3, 5, -1, -3, -5], 1, [0, 2, 2, 0, -2, -2]),
        ([254, 255, 256, -256, -257, -999], 1, [127, 127, 127, -128, -128, -128]),
        ([(1 << 31) - 1, -(1 << 31), 7, -7], 0, [127, -128, 7, -7]),
        ([(1 << 31) - 1, -(1 << 31)], 63, [0, 0]),
    ],
)
def test_output_rounds_half_to_even_and_saturates(arch, sums, shift, want):
    bench = Bench(arch, 0)
    give_params(bench, 3, bias=[0] * arch.cols, mult=[1] * arch.cols, shift=[shift] * arch.cols)
    bench.machine.acc[: len(sums), 0] = sums
    bench.machine.released.extend(range(len(sums)))
    bench.machine.execute(bench.isa.make("OUTPUT", nx=len(sums), param=3, dst_px=1, low=-128, high=127))
    assert list(bench.machine.act[: len(sums)]) == want


# -- VECTOR
# ------------------------------------------------------------------------------------------------------------
def binary_value(mnemonic, instr, a, b):
    a, b = int(a) - instr.a_zero, int(b) - instr.b_zero
    total = a * instr.a_mult + b * instr.b_mult if mnemonic == "ADD" else a * b * instr.a_mult
    return rounded(total, instr.shift, instr.zero, instr.low, instr.high)


def binary_operands(bench, mnemonic):
    largest = 1 << 16
    mults = {
        name: int(bench.rng.choice([-largest, largest - 1, bench.pick(-largest, largest - 1)]))
        for name in ("a_mult", "b_mult")
    }
    return dict(
        ny=bench.pick(1, 3),
        nx=bench.pick(1, 4),
        bytes=bench.pick(1, 3 * bench.arch.lanes),
        a=bench.address(),
        b=bench.address(),
        dst=bench.address(),
        a_zero=bench.int8(),
        b_zero=bench.int8(),
        shift=int(bench.rng.choice([0, 16, 23, 63])),
        **bench.steps("a_row", "a_px", "b_row", "b_px", "dst_row", "dst_px"),
        **mults,
        **bench.result(),
    )


def elements(instr):
    return itertools.product(range(instr.ny), range(instr.nx), range(instr.bytes))


def at(instr, name, y, x, i, arch):
    steps = instr.operands
    return (steps[name] + y * steps[f"{name}_row"] + x * steps[f"{name}_px"] + i) % arch.act_bytes


@every_arch
@every_seed
@pytest.mark.parametrize("mnemonic", ["ADD", "MUL"])
def test_binary_operations(arch, seed, mnemonic):
    bench = Bench(arch, seed)

    def expected(instr, before):
        act = before["act"].copy()
        for y, x, i in elements(instr):
            a, b = (before["act"][at(instr, name, y, x, i, arch)] for name in "ab")
            act[at(instr, "dst", y, x, i, arch)] = bench.looked_up(binary_value(mnemonic, instr, a, b), instr)
        return {"act": act}

    execute(bench, mnemonic, expected, **binary_operands(bench, mnemonic))


@every_arch
@every_seed
def test_output_feeds_operand_a_of_the_vector_unit(arch, seed):
    bench = Bench(arch, seed)
    mnemonic = ("ADD", "MUL")[seed % 2]
    bench.machine.acc[:] = bench.rng.integers(-9000, 9000, bench.machine.acc.shape)
    operands = binary_operands(bench, mnemonic) | dict(
        bytes=bench.pick(1, arch.cols), a_source=OperandA.OUTPUT
    )
    ny, nx, channels = operands["ny"], operands["nx"], operands["bytes"]
    fields = give_params(
        bench,
        1,
        mult=bench.rng.integers(1 << 15, 1 << 16, arch.cols),
        shift=[22] * arch.cols,
        bias=[0] * arch.cols,
    )
    bench.machine.released.extend(range(ny * nx))
    sent = execute(
        bench, "OUTPUT", dest=Destination.VECTOR, ny=ny, nx=nx, channels=channels, param=1, **bench.result()
    )

    def expected(instr, before):
        act = before["act"].copy()
        for y, x, i in elements(instr):
            a, b = output_of(bench, sent, fields, y * nx + x, i), before["act"][at(instr, "b", y, x, i, arch)]
            act[at(instr, "dst", y, x, i, arch)] = bench.looked_up(binary_value(mnemonic, instr, a, b), instr)
        return {"act": act}

    execute(bench, mnemonic, expected, **operands)
    assert not bench.machine.chain


@every_arch
@every_seed
def test_pool_takes_the_maximum_inside_the_window(arch, seed):
    bench = Bench(arch, seed)

    def expected(instr, before):
        act = before["act"].copy()
        for oy, ox, i in elements(instr):
            best = -128
            for ky, kx in itertools.product(range(instr.ky), range(instr.kx)):
                across = kx * instr.kx_x + ox * instr.ox_x
                inside = (
                    0 <= instr.y0 + ky * instr.ky_y + oy * instr.oy_y < instr.height
                    and 0 <= instr.x0 + across < instr.row_bytes
                )
                if inside:
                    address = instr.base + across + ky * instr.ky_addr + oy * instr.oy_addr + i
                    best = max(best, int(before["act"][address % arch.act_bytes]))
            act[at(instr, "dst", oy, ox, i, arch)] = bench.looked_up(best, instr)
        return {"act": act}

    execute(
        bench,
        "POOL",
        expected,
        ny=bench.pick(1, 3),
        nx=bench.pick(1, 4),
        bytes=bench.pick(1, 3 * arch.lanes),
        base=bench.address(),
        y0=bench.pick(-2, 1),
        x0=bench.pick(-12, 6),
        height=bench.pick(0, 5),
        row_bytes=bench.pick(0, 60),
        ky=bench.pick(1, 3),
        ky_y=bench.pick(0, 2),
        kx=bench.pick(1, 3),
        oy_y=bench.pick(0, 2),
        dst=bench.address(),
        **bench.table(),
        **bench.steps("ky_addr", "kx_x", "oy_addr", "ox_x", "dst_row", "dst_px"),
    )
