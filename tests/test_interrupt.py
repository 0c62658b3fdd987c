"""Ctrl-C in real processes: within a second, status 130, one line, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from systolith.sim.native import RtlDevice
from systolith.spec.arch import PRESETS
from tests.test_bounded import POOL, crafted

#: Seconds from Ctrl-C to the end. It is one on a machine with nothing else to do, and tests run side by side.
LIMIT = 3.0
#: A command that says when it begins, after the first imports of Python itself.
READY = "import sys, systolith.cli as c; print('ready', flush=True); sys.exit(c.main())"
#: A command that is in ONNX Runtime for ever.
ENDLESS = """
import onnx, onnxruntime, sys
from onnx import TensorProto, helper
from systolith import cli
from systolith.cli import program
body = helper.make_graph(
    [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Sin", ["a"], ["b"])], "body",
    [helper.make_tensor_value_info(n, t, s) for n, t, s in
     (("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("a", TensorProto.FLOAT, [9]))],
    [helper.make_tensor_value_info(n, t, s) for n, t, s in
     (("again", TensorProto.BOOL, []), ("b", TensorProto.FLOAT, [9]))])
graph = helper.make_graph(
    [helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body)], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [9])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [9])],
    [helper.make_tensor("n", TensorProto.INT64, [], [1 << 62]),
     helper.make_tensor("yes", TensorProto.BOOL, [], [True])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString())
@program.cli.command()
def endless():
    import numpy as np
    print("ready", flush=True)
    session.run(None, {"x": np.ones(9, np.float32)})
sys.exit(cli.main())
"""
RUN = ("run", "m.sysl", "--inputs", "x.npz", "--on", "rtl", "--max-cycles", str(1 << 40))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds an image that never ends, and its inputs: none."""
    crafted(*POOL).save(tmp_path / "m.sysl")
    np.savez(tmp_path / "x.npz")
    return tmp_path


def session_of(process: subprocess.Popen[str]) -> dict[int, str]:
    """Names of the processes of a session that still run, by id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            state, _, _, session = tail.split()[:4]
            if int(session) == process.pid and state != "Z":
                found[int(entry.name)] = head.partition("(")[2]
    return found


def processor_seconds(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def interrupt(
    code: str,
    arguments: tuple[str, ...],
    folder: Path,
    moment: Callable[[subprocess.Popen[str]], bool],
    **environment: str,
) -> tuple[int, str, float]:
    """Status, standard error, and seconds from SIGINT, sent at a moment after the command is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 120
        while not moment(process):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the moment of Ctrl-C did not come"
            time.sleep(0.005)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        seconds = time.monotonic() - begin
        assert not session_of(process), "children live on"
        return process.returncode, process.stderr.read() if process.stderr else "", seconds
    finally:
        process.kill()
        process.communicate()


def assert_over(result: tuple[int, str, float]) -> None:
    status, error, seconds = result
    lines = error.splitlines()
    # Lines of the progress come before it.
    assert (status, lines[-1]) == (130, "systolith: interrupted"), error
    assert not set(lines[:-1]) - {"preparing rtl", "running on rtl"}, error
    assert seconds < LIMIT
    print(f"{seconds:.2f} s")


@pytest.mark.parametrize("cpu_seconds", [0.06, 0.15, 0.3, 0.5, 0.8, 3.0])
def test_while_all_is_imported_and_while_a_core_is_simulated(cpu_seconds: float, folder: Path) -> None:
    RtlDevice(PRESETS["tiny"]).close()
    before = set(folder.iterdir())
    assert_over(interrupt(READY, RUN, folder, lambda process: processor_seconds(process) > cpu_seconds))
    assert set(folder.iterdir()) == before


def test_within_onnx_runtime(folder: Path) -> None:
    begin = time.monotonic()
    assert_over(interrupt(ENDLESS, ("endless",), folder, lambda process: time.monotonic() - begin > 1))


@pytest.mark.parametrize("tool", ["verilator_bin", "cc1plus"])
def test_while_a_tool_runs(tool: str, folder: Path) -> None:
    cache = folder / "cache"
    result = interrupt(
        READY,
        RUN,
        folder,
        lambda process: tool in session_of(process).values(),
        SYSTOLITH_CACHE=str(cache),
    )
    assert_over(result)
    left = [path.name for path in cache.rglob("*") if path.suffix in (".so", ".o", ".cpp", ".part")]
    assert not left, "an unfinished build is left"


def test_a_script_gets_keyboard_interrupt_from_the_simulation(folder: Path) -> None:
    RtlDevice(PRESETS["tiny"]).close()
    script = """
from systolith import api
print("ready", flush=True)
try:
    api.run("m.sysl", {}, on="rtl", max_cycles=1 << 40)
except KeyboardInterrupt:
    raise SystemExit(7)
"""
    status, error, seconds = interrupt(script, (), folder, lambda process: processor_seconds(process) > 3)
    assert (status, error) == (7, "")
    assert seconds < LIMIT


def test_where_the_caller_ignores_it_the_command_goes_on(folder: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {READY}"
    done = ("run", "m.sysl", "--inputs", "absent.npz")
    status, error, _ = interrupt(code, done, folder, lambda process: True)
    assert status == 2 and "absent.npz" in error
