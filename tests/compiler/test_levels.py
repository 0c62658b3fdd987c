"""Every level of the compiler is checked and can be dumped."""

import dataclasses

import numpy as np
import pytest

from systolith import api
from systolith.compiler.driver import compile_levels
from systolith.compiler.verify import VerifyError, verify_graph, verify_image, verify_lowering, verify_order
from systolith.reference.plan import Plan
from systolith.spec.arch import PRESETS
from systolith.spec.memory import MemoryTiming
from systolith.spec.outputs import OutputError
from tests.graphs import GraphBuilder

ARCH = PRESETS["array8"]


@pytest.fixture
def compilation():
    """A network with work for every engine; its large constant is loaded in each inference."""
    builder = GraphBuilder(9)
    x = builder.conv(builder.input((1, 20, 9, 9)), channels=12, group=1, window=builder.same(4))
    x = builder.binary(x, builder.constant(builder.shape(x)))
    return compile_levels(builder.finish(builder.max_pool(x)), ARCH)


def test_a_dump_holds_every_level(tmp_path, compilation):
    graph = compilation.part.graph
    image = api.compile(Plan.of(graph), ARCH, dump=tmp_path / "deep" / "er")
    files = {path.name: path.read_text() for path in (tmp_path / "deep" / "er").iterdir()}
    assert set(files) == {"graph.txt", "lowered.txt", "placement.txt", "constants.txt", "program.txt"}
    for node in graph.nodes:
        assert f"{node.name}: {node.output} = {node.op_type}" in files["graph.txt"]
    for name in (*graph.inputs, *graph.outputs):
        assert f"{name}: {np.prod(graph.tensors[name].shape)} bytes at 0x" in files["placement.txt"]
    instructions = [line for line in files["program.txt"].splitlines() if not line.startswith("#")]
    assert len(instructions) == image.core.count and instructions[-1].endswith("HALT")
    assert files["program.txt"].count("signal=") and not files["lowered.txt"].count("signal=")
    assert sum(int(line.split()[1]) for line in files["constants.txt"].splitlines()) <= len(image.program)


def test_a_dump_that_cannot_be_written_is_one_sentence(tmp_path, compilation):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the dump"):
        api.compile(Plan.of(compilation.part.graph), ARCH, dump=tmp_path / "file")


def test_a_graph_in_the_wrong_order_is_found(compilation):
    graph = compilation.part.graph
    with pytest.raises(VerifyError, match="before it is computed"):
        verify_graph(dataclasses.replace(graph, nodes=graph.nodes[::-1]))
    with pytest.raises(VerifyError, match="two nodes"):
        verify_graph(dataclasses.replace(graph, nodes=(*graph.nodes, graph.nodes[0])))
    with pytest.raises(VerifyError, match="never computed"):
        verify_graph(dataclasses.replace(graph, outputs=("nowhere",)))
    tensors = {
        **graph.tensors,
        graph.inputs[0]: dataclasses.replace(graph.tensors[graph.inputs[0]], zero_point=128),
    }
    with pytest.raises(VerifyError, match="zero point 128"):
        verify_graph(dataclasses.replace(graph, tensors=tensors))


def changed(instrs, mnemonic, **operands):
    """The stream with operands of its first such instruction changed."""
    index = next(i for i, instr in enumerate(instrs) if instr.mnemonic == mnemonic)
    instr = instrs[index]
    return [
        *instrs[:index],
        dataclasses.replace(instr, operands={**instr.operands, **operands}),
        *instrs[index + 1 :],
    ]


def test_a_write_outside_its_memory_is_found(compilation):
    low = compilation.part.lowering
    verify_lowering(low)
    beyond = changed(low.instrs, "OUTPUT", acc=ARCH.acc_depth - 1)
    with pytest.raises(VerifyError, match="OUTPUT.*acc.*outside"):
        verify_lowering(dataclasses.replace(low, instrs=beyond))
    over = changed(low.instrs, "STORE", offset=low.io_offsets[low.graph.inputs[0]])
    with pytest.raises(VerifyError, match="STORE.*an input of the model"):
        verify_lowering(dataclasses.replace(low, instrs=over))
    with pytest.raises(VerifyError, match="HALT"):
        verify_lowering(dataclasses.replace(low, instrs=low.instrs[:-1], owners=low.owners[:-1]))


def test_a_missing_token_and_a_changed_operand_are_found(compilation):
    low, run = compilation.part.lowering, compilation.part.run
    verify_order(low, run)
    waiting = next(i for i, instr in enumerate(run) if instr.operands.get("wait"))
    broken = [*run]
    broken[waiting] = dataclasses.replace(run[waiting], operands={**run[waiting].operands, "wait": 0})
    with pytest.raises(VerifyError, match="no token orders them"):
        verify_order(low, broken)
    with pytest.raises(VerifyError, match="changed when tokens were added"):
        verify_order(low, changed(run, "OUTPUT", zero=run[waiting].operands.get("zero", 0) ^ 1))


def test_an_image_of_something_else_is_found(compilation):
    verify_image(compilation.image, compilation.load, [compilation.part.run])
    with pytest.raises(VerifyError, match="the run stream"):
        verify_image(compilation.image, compilation.load, [compilation.part.run[::-1]])
    far = changed(compilation.load, "LOAD", offset=1 << 30)
    with pytest.raises(VerifyError, match="the load stream"):
        verify_image(compilation.image, far, [compilation.part.run])


def test_models_differ_only_in_the_estimate_when_the_memory_is_slow(compilation):
    slow = compile_levels(compilation.part.graph, ARCH, MemoryTiming(latency=20, bytes_per_cycle=2)).image
    fast = compilation.image
    assert slow.program == fast.program and slow.cycles > fast.cycles
    assert any(layer.limit == "memory" for layer in slow.layers)
