"""Tensors that do not fit the activation SRAM: computed piece by piece, bit for bit, and hidden behind the
array."""

import dataclasses

import numpy as np
import pytest

from systolith.compiler.base.arena import Arena
from systolith.compiler.base.errors import AllocationError
from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.reference.conv import Conv
from systolith.reference.hazards import check_order
from systolith.reference.machine_device import MachineDevice
from systolith.spec.arch import PRESETS
from systolith.spec.isa import OperandA
from tests.graphs import ARCHS, GraphBuilder, assert_same_bits, random_graph

#: Many of these graphs fit 2 KiB only piece by piece.
SEEDS = range(24)


def small(name, act_bytes=1 << 11):
    return dataclasses.replace(ARCHS[name], act_bytes=act_bytes)


def moved(image):
    """Bytes that the run stream moves between the activation SRAM and external memory."""
    return sum(i.planes * i.rows * i.bytes for _, i in image.stream("run") if i.mnemonic in ("LOAD", "STORE"))


@pytest.mark.parametrize("name", ["tiny", "array8", "wide"])
def test_machine_gives_the_bits_of_the_reference_from_external_memory(name):
    arch, pieces = small(name), 0
    for seed in SEEDS:
        graph = random_graph(seed, largest=16)
        try:
            image = compile_graph(graph, arch)
        except AllocationError:
            continue
        check_order([instr for _, instr in image.stream("run")], arch)
        driver = Driver(MachineDevice(arch), image)
        assert_same_bits(driver, graph, seed)
        pieces += moved(image) > sum(
            int(np.prod(graph.tensors[n].shape)) for n in (*graph.inputs, *graph.outputs)
        )
    assert pieces >= 10


def residual_block(seed=5, size=40, channels=16):
    """Convolution, depthwise convolution, and an addition of the input: each tensor is size x size x channels
    bytes."""
    b = GraphBuilder(seed)
    x = b.input((1, channels, size, size))

    def conv(source, group):
        weights = b.weights(channels, channels // group, 3, 3)
        op = Conv(
            weights=weights,
            bias=np.zeros(channels, np.int32),
            strides=(1, 1),
            dilations=(1, 1),
            pads=(1, 1, 1, 1),
            group=group,
            x_zero=b.tensors[source].zero_point,
            requant=b.requant(channels, weights[0].size),
        )
        return b.append(op, source)

    return b.finish(b.binary(conv(conv(x, 1), channels), x))


def test_transfers_hide_behind_the_array():
    graph = residual_block()
    whole, pieces = (
        compile_graph(graph, dataclasses.replace(PRESETS["array8"], act_bytes=size))
        for size in (1 << 18, 1 << 14)
    )
    assert moved(pieces) > 2 * moved(whole)
    assert pieces.cycles < 1.1 * whole.cycles


def test_the_largest_tensor_goes_first_and_small_ones_stay():
    b = GraphBuilder(1)
    x = b.input((1, 8, 64, 64))
    wide = b.lookup(x)
    narrow = b.lookup(b.max_pool(b.max_pool(wide)))
    graph = b.finish(narrow)
    arch = dataclasses.replace(PRESETS["array8"], act_bytes=1 << 15)
    image = compile_graph(graph, arch)
    size = int(np.prod(graph.tensors[narrow].shape))
    stores = [i for _, i in image.stream("run") if i.mnemonic == "STORE"]
    assert stores[-1].bytes == size and len(stores) < 20
    assert_same_bits(Driver(MachineDevice(arch), image), graph, seed=1)


def test_a_residual_addition_stays_chained_to_its_convolution():
    graph = residual_block()
    image = compile_graph(graph, dataclasses.replace(PRESETS["array8"], act_bytes=1 << 14))
    vector = [i for _, i in image.stream("run") if i.mnemonic in ("ADD", "MUL")]
    assert vector and all(i.a_source == OperandA.OUTPUT for i in vector)


def test_scratch_of_dead_tensors_is_used_again():
    b = GraphBuilder(2)
    x = b.input((1, 4, 64, 64))
    for _ in range(8):
        x = b.lookup(x)
    image = compile_graph(b.finish(x), dataclasses.replace(PRESETS["array8"], act_bytes=1 << 13))
    # Input, output, and two tensors in between.
    assert image.data_bytes == 4 * 4 * 64 * 64


def test_what_is_needed_whole_and_does_not_fit_is_refused_by_name():
    b = GraphBuilder(3)
    graph = b.finish(b.matmul(b.input((1, 5000))))
    with pytest.raises(AllocationError, match=r"matmul0.*5\d\d\d bytes.*4096.*act_bytes"):
        compile_graph(graph, small("array8", 1 << 12))


def test_an_arena_gives_each_byte_once_and_takes_it_back():
    rng = np.random.default_rng(7)
    arena, held = Arena(0, 1 << 12, 16, 1 << 10), []
    for _ in range(400):
        if held and rng.random() < 0.5:
            arena.release(*held.pop(int(rng.integers(len(held)))))
            continue
        size = int(rng.integers(1, 700))
        address = arena.allocate(size)
        if address is None:
            assert arena.largest < size + -size % 16
            continue
        assert address % 16 == 0 and address + size <= 1 << 12
        assert all(address + size <= other or other + length <= address for other, length in held)
        held.append((address, size))
    for range_ in held:
        arena.release(*range_)
    assert arena.largest == 1 << 12
    assert arena.allocate_all([1 << 11, 1 << 11, 16]) is None and arena.largest == 1 << 12


def test_a_long_input_is_brought_in_while_the_first_layer_works():
    b = GraphBuilder(4)
    graph = b.finish(b.conv(b.input((1, 3, 96, 96)), channels=8, group=1))
    image = compile_graph(graph, PRESETS["array8"])
    loads = [i for _, i in image.stream("run") if i.mnemonic == "LOAD"]
    assert len(loads) > 2 and all(load.bytes < 3 * 96 * 96 // 2 for load in loads)
    assert_same_bits(Driver(MachineDevice(PRESETS["array8"]), image), graph, seed=1)
