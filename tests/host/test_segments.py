"""Host segments from images that strangers made: in a process of their own, within memory and time."""

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

from systolith.host.segment_process import Limits
from systolith.host.segments import HostSegments, SegmentError
from systolith.spec.segments import HostPart, Port

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
        "segment",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("y", out, None)],
        list(constants),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=8, functions=list(functions)
    ).SerializeToString()


def part(before: bytes = b"", after: bytes = b"") -> HostPart:
    x = Port(name="x", shape=(3, 4), dtype="float32")
    return HostPart(
        before=before,
        after=after,
        inputs=(x,),
        outputs=(Port(name="y", shape=None, dtype="float32"),),
        nodes=(),
    )


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
    """A tensor of 9.6 GB; `fixed` folds it while the segment is loaded, else it depends on x."""
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
    segments = HostSegments(part(after=data))
    given = segments.leave({"x": X}, {})["y"]
    assert given.dtype == direct.dtype and np.array_equal(given, direct)
    assert 0 < segments.seconds["after"] < 1 and given.flags.writeable


def test_texts_pass_both_ways() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["y"])],
        "texts",
        [helper.make_tensor_value_info("t", TensorProto.STRING, [2])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [2])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    segments = HostSegments(part(after=data.SerializeToString()))
    given = segments.leave({"t": np.array(["ü", "\0b"], dtype=object)}, {})["y"]
    assert given.tolist() == ["ü", "\0b"]


@pytest.mark.parametrize("which", ["before", "after"])
def test_a_loop_without_end_is_stopped_and_the_next_segment_runs(which: str) -> None:
    segments = HostSegments(part(**{which: endless()}), Limits(seconds=1.0))
    other = HostSegments(part(after=RELU))
    begin = time.monotonic()
    with pytest.raises(
        SegmentError,
        match=rf"^ONNX Runtime stopped in the nodes {which} the core: they take more than 1 seconds; change "
        r"the model, or allow more with SYSTOLITH_HOST_SECONDS$",
    ):
        segments.leave(segments.enter({"x": X}), {})
    assert time.monotonic() - begin < 10
    assert np.array_equal(other.leave({"x": X}, {})["y"], np.maximum(X, 0))


@pytest.mark.parametrize("fixed", [False, True])
def test_a_segment_does_not_take_more_memory_than_it_may(fixed: bool) -> None:
    with pytest.raises(
        SegmentError, match=r"they take more than 1024 MB of memory; change the model, or allow"
    ):
        HostSegments(part(after=huge(fixed))).leave({"x": X}, {})
    assert np.array_equal(HostSegments(part(after=RELU)).leave({"x": X}, {})["y"], np.maximum(X, 0))


def test_the_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits() == Limits(seconds=20.0, bytes=1 << 30)
    monkeypatch.setenv("SYSTOLITH_HOST_SECONDS", "0.5")
    monkeypatch.setenv("SYSTOLITH_HOST_MEMORY", "64")
    assert Limits() == Limits(seconds=0.5, bytes=64 << 20)
    for wrong in ("-1", "nan", "soon"):
        monkeypatch.setenv("SYSTOLITH_HOST_SECONDS", wrong)
        with pytest.raises(
            SegmentError, match=f"SYSTOLITH_HOST_SECONDS is '{wrong}': give a positive number"
        ):
            HostSegments(part(after=RELU))


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
        SegmentError, match=r"after the core: the values of tensor 'c' lie in another file; change"
    ):
        HostSegments(part(after=with_outside(place)))


def test_foreign_operators_and_what_is_no_onnx_are_refused() -> None:
    data = model([helper.make_node("Steal", ["x"], ["y"], domain="evil")])
    with pytest.raises(SegmentError, match=r"operator 'Steal' of domain 'evil' is unknown; change the model"):
        HostSegments(part(before=data))
    with pytest.raises(SegmentError, match=r"before the core: they are no ONNX model; change the model"):
        HostSegments(part(before=b"\xff\xff\xff"))


def test_names_that_nothing_gives() -> None:
    data = model([helper.make_node("Relu", ["x"], ["z"])]).replace(b"\x01y", b"\x01z")
    with pytest.raises(SegmentError, match=r"^nothing gives the output 'y': compile the model again$"):
        HostSegments(part(before=data)).leave({"x": X}, {})
    with pytest.raises(
        SegmentError,
        match=r"^the nodes after the core read 'x', which nothing gives: compile the model again$",
    ):
        HostSegments(part(after=RELU)).leave({}, {})


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from test_segments import X, endless, part
from systolith.host.segments import HostSegments
segments = HostSegments(part(after=endless()))
print("ready", flush=True)
segments.leave({{"x": X}}, {{}})
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
        pytest.fail("the process that runs segments outlived its parent")
