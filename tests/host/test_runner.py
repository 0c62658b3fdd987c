"""Host steps from images that strangers made: in a process of their own, within memory and time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.host.runner import HostStepError, Runner
from systolith.host.step_process import Limits
from systolith.reference.plan import Plan
from systolith.spec.plan import HostNode, HostStep, Port

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto] = (),
    out: int = TensorProto.FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
) -> bytes:
    """A model from x [3, 4] to y of any shape."""
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("y", out, None)],
        list(constants),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=8, functions=list(functions)
    ).SerializeToString()


def on_host(*models: bytes, reads: str = "x") -> Plan:
    """A plan of host steps alone: the first reads x, and each gives y; only one may give it to the model."""
    node = HostNode(name="n", op="Relu", reason="", macs=0, elements=None, bytes=0)
    return Plan(
        name="m",
        steps=tuple(HostStep(model=data, inputs=(reads,), outputs=("y",), nodes=(node,)) for data in models),
        inputs=(Port(name=reads, shape=(3, 4), dtype="float32"),),
        outputs=(Port(name="y", shape=None, dtype="float32"),),
    )


def no_core(*_: object) -> dict[str, np.ndarray]:
    """A core for plans that have none."""
    raise AssertionError("this plan has no core step")


def run(runner: Runner | Plan, x: np.ndarray = X, name: str = "x") -> np.ndarray:
    """The output y of a plan on the host."""
    runner = runner if isinstance(runner, Runner) else Runner(runner)
    return runner.run({name: x}, no_core).outputs["y"]


def endless() -> bytes:
    """A Loop of 2**62 trips."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [3, 4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]),
        ],
    )
    trips = numpy_helper.from_array(np.array(1 << 62, np.int64), "trips")
    go = numpy_helper.from_array(np.array(True), "start")
    return model([helper.make_node("Loop", ["trips", "start", "x"], ["y"], body=body)], [trips, go])


def huge(fixed: bool) -> bytes:
    """A tensor of 9.6 GB; `fixed` folds it while the step is loaded, else it depends on x."""
    shape = numpy_helper.from_array(np.array([40_000, 60_000], np.int64), "shape")
    if fixed:
        nodes = [
            helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["s"]),
            helper.make_node("Add", ["x", "s"], ["y"]),
        ]
        return model(nodes, [shape])
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Expand", ["m", "shape"], ["y"]),
    ]
    return model(nodes, [shape])


RELU = model([helper.make_node("Relu", ["x"], ["y"])])


def test_results_are_those_of_onnx_runtime_in_this_process() -> None:
    data = model([helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("Erf", ["s"], ["y"])])
    direct = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    result = Runner(on_host(data)).run({"x": X}, no_core)
    given = result.outputs["y"]
    assert given.dtype == direct.dtype and np.array_equal(given, direct)
    assert 0 < result.seconds[0] < 1 and given.flags.writeable


def test_texts_pass_both_ways() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["y"])],
        "texts",
        [helper.make_tensor_value_info("t", TensorProto.STRING, [2])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [2])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    plan = on_host(data.SerializeToString(), reads="t")
    given = run(plan, np.array(["ü", "\0b"], dtype=object), "t")
    assert given.tolist() == ["ü", "\0b"]


def test_a_loop_without_end_is_stopped_and_the_next_step_runs() -> None:
    runner, other = Runner(on_host(endless()), Limits(seconds=1.0)), Runner(on_host(RELU))
    begin = time.monotonic()
    with pytest.raises(
        HostStepError,
        match=r"^ONNX Runtime stopped in the host's step 1 \(node 'n'\): they take more than 1 seconds; "
        r"change the model, or allow more with SYSTOLITH_HOST_SECONDS$",
    ):
        run(runner)
    assert time.monotonic() - begin < 10
    assert np.array_equal(run(other), np.maximum(X, 0))


@pytest.mark.parametrize("fixed", [False, True])
def test_a_step_does_not_take_more_memory_than_it_may(fixed: bool) -> None:
    with pytest.raises(
        HostStepError, match=r"they take more than 1024 MB of memory; change the model, or allow"
    ):
        run(on_host(huge(fixed)))
    assert np.array_equal(run(on_host(RELU)), np.maximum(X, 0))


def test_the_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits() == Limits(seconds=20.0, bytes=1 << 30)
    monkeypatch.setenv("SYSTOLITH_HOST_SECONDS", "0.5")
    monkeypatch.setenv("SYSTOLITH_HOST_MEMORY", "64")
    assert Limits() == Limits(seconds=0.5, bytes=64 << 20)
    for wrong in ("-1", "nan", "soon"):
        monkeypatch.setenv("SYSTOLITH_HOST_SECONDS", wrong)
        with pytest.raises(
            HostStepError, match=f"SYSTOLITH_HOST_SECONDS is '{wrong}': give a positive number"
        ):
            Runner(on_host(RELU))


def outside(name: str) -> onnx.TensorProto:
    """A tensor whose values lie in another file."""
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def with_outside(place: str) -> bytes:
    constant = helper.make_node("Constant", [], ["c"], value=outside("c"))
    add = helper.make_node("Add", ["x", "c"], ["y"])
    if place == "initializer":
        return model([add], [outside("c")])
    if place == "attribute":
        return model([constant, add])
    if place == "function":
        body = helper.make_function("own", "F", ["x"], ["y"], [constant, add], [helper.make_opsetid("", 17)])
        return model([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[body])
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([constant, add], "branch", [], [info])
    choice = numpy_helper.from_array(np.array(True), "choice")
    return model(
        [helper.make_node("If", ["choice"], ["y"], then_branch=branch, else_branch=branch)], [choice]
    )


@pytest.mark.parametrize("place", ["initializer", "attribute", "function", "subgraph"])
def test_values_in_other_files_are_refused_wherever_they_are(place: str) -> None:
    with pytest.raises(
        HostStepError,
        match=r"the host's step 1 \(node 'n'\): the values of tensor 'c' lie in another file; change",
    ):
        Runner(on_host(with_outside(place)))


def test_foreign_operators_and_what_is_no_onnx_are_refused() -> None:
    data = model([helper.make_node("Steal", ["x"], ["y"], domain="evil")])
    with pytest.raises(HostStepError, match=r"operator 'Steal' of domain 'evil' is unknown; change the"):
        Runner(on_host(data))
    with pytest.raises(HostStepError, match=r"host's step 2 \(node 'n'\): they are no ONNX model; change"):
        Runner(on_host(RELU, b"\xff\xff\xff"))


def test_names_that_nothing_gives() -> None:
    other = model([helper.make_node("Relu", ["x"], ["z"])]).replace(b"\x01y", b"\x01z")
    with pytest.raises(
        HostStepError, match=r"^the host's step 1 \(node 'n'\) does not give 'y': compile the model again$"
    ):
        run(on_host(other))
    with pytest.raises(
        HostStepError,
        match=r"^the host's step 1 \(node 'n'\) reads 'x', which nothing gives: compile the model again$",
    ):
        run(on_host(RELU, reads="w"), name="w")
    with pytest.raises(HostStepError, match=r"^nothing gives the output 'y': compile the model again$"):
        run(on_host())


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from test_runner import endless, on_host, run
from systolith.host.runner import Runner
runner = Runner(on_host(endless()))
print("ready", flush=True)
run(runner)
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed by /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_processes_at_once(how: signal.Signals, tmp_path: Path) -> None:
    # A module of the folder that a user works in is not what ONNX Runtime imports.
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        (child,) = _children(process.pid)
        begin = time.monotonic()
        # A terminal sends the signal to all of them.
        os.killpg(process.pid, how)
        assert process.wait(10) != 0
        assert time.monotonic() - begin < 2
    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or "zombie" in Path(f"/proc/{child}/status").read_text():
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the process that runs host steps outlived its parent")
