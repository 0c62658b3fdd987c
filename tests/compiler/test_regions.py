"""Steps of core and host in turn: as few as possible, with names of their own, and near the float model."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.partition import partition_model, prepare
from systolith.compiler.regions import CoreRegion, HostRegion, schedule
from systolith.host.runner import Runner
from systolith.reference.plan import CorePart, ReferenceCores
from systolith.spec.plan import HostStep

WIDTH = 6


class Floats:
    """A float model of [1, WIDTH] tensors, whose nodes are for the core (`core`) or for the host alone."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], [numpy_helper.from_array(np.int64(1), "axis")]

    def _node(self, op, inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"node{len(self.nodes)}", **attributes))
        return name

    def product(self, x):
        weights = f"w{len(self.nodes)}"
        array = self.rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        self.constants.append(numpy_helper.from_array(array, weights))
        return self._node("MatMul", [x, weights])

    def core(self, op, *inputs):
        return self._node(op, inputs)

    def host(self, x):
        """A node that the core has not, and that makes no error larger than a row is long."""
        return self._node("Softmax", [x], axis=1) if self.rng.random() < 0.5 else self.sums(x)

    def sums(self, x):
        return self._node("CumSum", [x, "axis"])

    def model(self, *outputs):
        graph = helper.make_graph(
            self.nodes,
            "mixed",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    def samples(self, count=64):
        return self.rng.normal(0, 1, (count, 1, WIDTH)).astype(np.float32)


def kinds(plan):
    return ["core" if isinstance(step, CorePart) else "host" for step in plan.steps]


def check(model, samples, least=20.0):
    """The plan; its outputs are that many dB from the float model, in the model's order."""
    plan = partition_model(model, {"x": samples})
    runner, session = Runner(plan), onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in model.graph.output]
    power, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for sample in samples[:24]:
        ours = runner.run({"x": sample}, ReferenceCores(plan)).outputs
        assert list(ours) == names
        for name, value in zip(names, session.run(None, {"x": sample}), strict=True):
            power[name] += float(np.square(value).sum())
            noise[name] += float(np.square(ours[name] - value).sum())
    for name in names:
        assert 10 * np.log10(power[name] / max(noise[name], 1e-12)) > least, name
    return plan


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_are_near_the_float_model(seed):
    floats = Floats(seed)
    rng, known = floats.rng, ["x"]
    for _ in range(int(rng.integers(6, 14))):
        x, y = (known[int(rng.integers(max(0, len(known) - 4), len(known)))] for _ in range(2))
        kind = rng.choice(["product", "product", "host", "add", "relu", "sigmoid"])
        known.append(
            floats.product(x)
            if kind == "product"
            else floats.host(x)
            if kind == "host"
            else floats.core("Add", x, y)
            if kind == "add"
            else floats.core({"relu": "Relu", "sigmoid": "Sigmoid"}[kind], x)
        )
    read = {name for node in floats.nodes for name in node.input}
    outputs = [name for name in known[1:] if name not in read or rng.random() < 0.15]
    model = floats.model(*outputs)
    plan = check(model, floats.samples())
    # Core and host take turns, and who gives a tensor gives it once.
    assert all(one != other for one, other in zip(kinds(plan), kinds(plan)[1:], strict=False))
    given = [name for step in plan.steps for name in step.outputs]
    assert len(given) == len(set(given)) and "x" not in given
    there = {"x"}
    for step in plan.steps:
        assert there.issuperset(step.inputs)
        there.update(step.outputs)
    found = {name for part in plan.cores for node in part.graph.nodes for name in node.sources}
    assert {node.name for node in model.graph.node if node.op_type == "MatMul"} <= found


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_chain_has_a_step_for_each_change(turns):
    floats = Floats(turns)
    y = "x"
    for _ in range(turns):
        y = floats.core("Relu", floats.product(y))
        y = floats.sums(floats.sums(y))
    assert kinds(check(floats.model(y), floats.samples())) == ["core", "host"] * turns


def test_branches_share_their_steps():
    """Three branches, each core, host, core: three steps, not nine."""
    floats = Floats(5)
    ends = [floats.product(floats.sums(floats.product("x"))) for _ in range(3)]
    total = floats.core("Add", floats.core("Add", *ends[:2]), ends[2])
    assert kinds(check(floats.model(total), floats.samples())) == ["core", "host", "core"]


def test_the_host_may_begin():
    """One branch begins on the host: beginning there takes a step less."""
    floats = Floats(6)
    a = floats.product(floats.sums("x"))
    b = floats.product("x")
    plan = check(floats.model(floats.core("Add", a, b)), floats.samples())
    assert kinds(plan) == ["host", "core"]
    # The input goes to both.
    assert all("x" in step.inputs for step in plan.steps)


def test_a_value_that_both_read_is_made_once():
    floats = Floats(7)
    hidden = floats.core("Relu", floats.product("x"))
    a, b = floats.product(hidden), floats.sums(hidden)
    plan = check(floats.model(a, b), floats.samples())
    assert kinds(plan) == ["core", "host"]
    assert plan.steps[1].inputs == (hidden,) and hidden in plan.cores[0].outputs
    assert [node.op for node in plan.host_nodes] == ["CumSum"]


def test_a_result_of_the_host_that_both_read_enters_the_core_once():
    floats = Floats(8)
    summed = floats.sums("x")
    a, b = floats.product(summed), floats.product(summed)
    c = floats.sums(summed)
    plan = check(floats.model(floats.core("Add", a, b), c), floats.samples())
    assert kinds(plan) == ["host", "core"]
    assert plan.cores[0].inputs == (summed,)
    assert [node.op for node in plan.host_nodes] == ["CumSum", "CumSum"]


def test_names_that_the_core_would_take_from_the_model_stay_the_models():
    """The output is a view of a tensor that the host reads under its own name."""
    floats = Floats(9)
    hidden = floats.core("Relu", floats.product("x"))
    same, summed = floats.core("Identity", hidden), floats.sums(hidden)
    plan = check(floats.model(same, summed, hidden), floats.samples())
    assert [port.name for port in plan.outputs] == [same, summed, hidden]
    given = [name for step in plan.steps for name in step.outputs]
    assert len(given) == len(set(given))


def test_a_node_that_the_host_needs_too_runs_on_both():
    """The host needs the moved input as the model has it; the core moves its own."""
    floats = Floats(10)
    floats.constants.append(numpy_helper.from_array(np.array([WIDTH, 1], np.int64), "shape"))
    floats.constants.append(numpy_helper.from_array(np.array([1, WIDTH], np.int64), "back"))
    turned = floats.core("Reshape", "x", "shape")
    flat = floats.core("Reshape", turned, "back")
    a, b = floats.product(flat), floats.sums(turned)
    model = floats.model(a, floats.core("Reshape", b, "back"))
    walked, plan = prepare(model, {"x": floats.samples()}).divided()
    reshape = next(node for node in plan.host_nodes if node.op == "Reshape")
    assert reshape.name in walked.both
    assert reshape.reason == "'node3', which is on the host, needs its result as the model has it"
    # What the core reads is the input itself, not what the host moved.
    assert "x" in plan.cores[0].inputs and turned not in plan.cores[0].inputs
    check(model, floats.samples())


def test_regions_are_what_the_plan_runs():
    floats = Floats(11)
    y = floats.product(floats.sums(floats.product("x")))
    walked, plan = prepare(floats.model(y), {"x": floats.samples()}).divided()
    regions = schedule(walked)
    assert [type(region) for region in regions] == [CoreRegion, HostRegion, CoreRegion]
    assert [type(step) for step in plan.steps] == [CorePart, HostStep, CorePart]
    assert [node.name for node in regions[1].nodes] == [node.name for node in plan.host_nodes]
