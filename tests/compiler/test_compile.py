"""Random graphs: the functional machine gives the reference's bits, and the program's order is proved."""

import dataclasses

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.reference.hazards import check_order
from systolith.reference.machine_device import MachineDevice
from systolith.spec.arch import PRESETS
from systolith.spec.image import Image
from tests.graphs import random_graph

ARCHS = {
    **PRESETS,
    "wide": dataclasses.replace(PRESETS["tiny"], name="wide", rows=4, cols=8, lanes=2, act_bytes=1 << 16, weight_bytes=1 << 16,
                                param_rows=256, table_slots=8, weight_rows_per_cycle=2),
    "nodw": dataclasses.replace(PRESETS["array8"], name="nodw", depthwise=False, weight_rows_per_cycle=1, act_blocks=1),
}
#: `tiny` as it is holds little; the graphs are about order and numbers, not about capacity.
ARCHS["tiny"] = dataclasses.replace(PRESETS["tiny"], act_bytes=1 << 16, weight_bytes=1 << 14)


def random_inputs(graph, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-128, 128, graph.tensors[name].shape).astype(np.int8) for name in graph.inputs}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("seed", range(40))
def test_machine_gives_the_bits_of_the_reference(seed, arch):
    graph = random_graph(seed)
    image = compile_graph(graph, ARCHS[arch])
    for stream in ("load", "run"):
        check_order([instr for _, instr in image.stream(stream)], ARCHS[arch])
    driver = Driver(MachineDevice(ARCHS[arch]), image)
    for draw in range(2):
        inputs = random_inputs(graph, seed * 2 + draw)
        expected = graph.run(inputs)
        actual = driver.run(inputs)
        for name in graph.outputs:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=f"seed {seed}, input {draw}, arch {arch}")


def test_compilation_is_reproducible_byte_for_byte():
    graph = random_graph(3)
    first = compile_graph(graph, PRESETS["array8"]).to_bytes()
    assert compile_graph(graph, PRESETS["array8"]).to_bytes() == first
    assert Image.from_bytes(first).to_bytes() == first


def test_streamed_weights_give_the_same_bits():
    graph = random_graph(5)
    small = dataclasses.replace(ARCHS["wide"], weight_bytes=1 << 12, param_rows=8, table_slots=2)
    image = compile_graph(graph, small)
    assert any(instr.mnemonic == "LOAD" and instr.space == 1 for _, instr in image.stream("run"))
    check_order([instr for _, instr in image.stream("run")], small)
    inputs = random_inputs(graph, 5)
    actual = Driver(MachineDevice(small), image).run(inputs)
    for name, expected in graph.run(inputs).items():
        if name in graph.outputs:
            np.testing.assert_array_equal(actual[name], expected)
