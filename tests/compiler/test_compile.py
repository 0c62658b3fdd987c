"""What a compiled program looks like: reproducible, streamed where it does not fit, ordered by tokens that
are all needed."""

import dataclasses

import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.reference.concat import Concat
from systolith.reference.hazards import HazardError, check_order
from systolith.reference.machine_device import MachineDevice
from systolith.spec.arch import PRESETS
from systolith.spec.image import Image
from systolith.spec.isa import OperandA, Space
from tests.graphs import ARCHS, GraphBuilder, assert_same_bits, random_graph


def test_compilation_is_reproducible_byte_for_byte():
    graph = random_graph(3)
    first = compile_graph(graph, PRESETS["array8"]).to_bytes()
    assert compile_graph(graph, PRESETS["array8"]).to_bytes() == first
    assert Image.from_bytes(first).to_bytes() == first


@pytest.mark.parametrize("seed", range(4))
def test_constants_that_do_not_fit_are_streamed(seed):
    builder = GraphBuilder(seed)
    x = builder.input((1, 10, 7, 6))
    for _ in range(8):
        x = builder.lookup(builder.conv(x, channels=10, group=1))
    graph = builder.finish(x)
    small = dataclasses.replace(ARCHS["wide"], weight_bytes=1 << 10, param_rows=8, table_slots=2)
    image = compile_graph(graph, small)
    spaces = {instr.space for _, instr in image.stream("run") if instr.mnemonic == "LOAD"}
    assert {Space.WEIGHT, Space.PARAM, Space.TABLE} <= spaces
    check_order([instr for _, instr in image.stream("run")], small)
    assert_same_bits(Driver(MachineDevice(small), image), graph, seed)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_constant_may_come_first_in_a_concat(axis):
    builder = GraphBuilder(0)
    x = builder.conv(builder.input((1, 3, 4, 5)), channels=3, group=1)
    token = builder.constant(builder.shape(x))
    graph = builder.finish(builder.append(Concat(axis=axis), token, x, token))
    image = compile_graph(graph, ARCHS["array8"])
    assert_same_bits(Driver(MachineDevice(image.arch), image), graph, seed=0)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 7), (3, 5)])
def test_a_chained_operation_finds_each_image_of_a_batch(shape, swapped):
    for seed in range(6):
        builder = GraphBuilder(seed)
        x = builder.input(shape)
        if len(shape) == 2:
            y = builder.matmul(x, shape[-1])
        else:
            y = builder.conv(x, shape[1], group=1, window=builder.same(len(shape)))
        graph = builder.finish(builder.binary(*((y, x) if swapped else (x, y))))
        image = compile_graph(graph, ARCHS["wide"])
        assert OperandA.OUTPUT in {instr.operands.get("a_source") for _, instr in image.stream("run")}
        assert_same_bits(Driver(MachineDevice(image.arch), image), graph, seed)


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
