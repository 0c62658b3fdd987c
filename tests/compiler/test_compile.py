"""Random graphs: the functional machine gives the reference's bits, and the program's order is proved."""

import dataclasses

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.reference.hazards import HazardError, check_order
from systolith.reference.machine_device import MachineDevice
from systolith.spec.arch import PRESETS
from systolith.spec.image import Image
from systolith.spec.isa import Space
from tests.graphs import random_graph

ARCHS = {
    **PRESETS,
    "wide": dataclasses.replace(PRESETS["tiny"], name="wide", rows=4, cols=8, lanes=2, act_bytes=1 << 16, weight_bytes=1 << 16,
                                param_rows=256, table_slots=8, weight_rows_per_cycle=2),
    "nodw": dataclasses.replace(PRESETS["array8"], name="nodw", depthwise=False, weight_rows_per_cycle=1, act_blocks=1),
}
ARCHS["bus32"] = dataclasses.replace(ARCHS["wide"], name="bus32", bus_bits=32, weight_rows_per_cycle=1, act_blocks=1)
ARCHS["bus64"] = dataclasses.replace(ARCHS["wide"], name="bus64", rows=8, cols=4, lanes=4, bus_bits=64, weight_rows_per_cycle=8, depthwise=False)
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
        actual = driver.run_int8(inputs)
        for name in graph.outputs:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=f"seed {seed}, input {draw}, arch {arch}")


def test_compilation_is_reproducible_byte_for_byte():
    graph = random_graph(3)
    first = compile_graph(graph, PRESETS["array8"]).to_bytes()
    assert compile_graph(graph, PRESETS["array8"]).to_bytes() == first
    assert Image.from_bytes(first).to_bytes() == first


@pytest.mark.parametrize("seed", [16, 33, 44, 52])
def test_constants_that_do_not_fit_are_streamed(seed):
    graph = random_graph(seed)
    small = dataclasses.replace(ARCHS["wide"], weight_bytes=1 << 11, param_rows=8, table_slots=2)
    image = compile_graph(graph, small)
    spaces = {instr.space for _, instr in image.stream("run") if instr.mnemonic == "LOAD"}
    assert {Space.WEIGHT, Space.PARAM} <= spaces
    check_order([instr for _, instr in image.stream("run")], small)
    driver = Driver(MachineDevice(small), image)
    for draw in range(2):
        inputs = random_inputs(graph, seed + draw)
        actual, expected = driver.run_int8(inputs), graph.run(inputs)
        for name in graph.outputs:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=f"seed {seed}, input {draw}")


def test_a_missing_token_is_found():
    arch = PRESETS["array8"]
    instrs = [instr for _, instr in compile_graph(random_graph(1), arch).stream("run")]
    found = 0
    for i, instr in enumerate(instrs):
        if instr.operands["wait"]:
            broken = [*instrs]
            broken[i] = dataclasses.replace(instr, operands={**instr.operands, "wait": 0})
            with pytest.raises(HazardError):
                check_order(broken, arch)
            found += 1
    assert found
