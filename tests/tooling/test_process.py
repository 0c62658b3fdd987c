"""Programs run in their own folder, take nothing from the caller's, and leave nothing running."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from systolith.spec.errors import SystolithError
from systolith.tooling import process
from systolith.tooling.process import Job, ToolError, run_tool, run_tools, tool_environment


class Refusal(SystolithError):
    """What the caller makes of a program that fails."""


def shell(script: str, what: str = "shell") -> Job:
    return Job(("sh", "-c", script), what)


def test_outputs_come_back_in_order_and_from_the_folder(tmp_path: Path) -> None:
    assert run_tools([shell("sleep 0.1; pwd"), shell("echo second >&2; echo $TMPDIR")], tmp_path) == [
        f"{tmp_path}\n",
        f"{tmp_path}\n",
    ]
    assert run_tool(["cat"], "cat", tmp_path, stdin="given") == "given"
    assert list(tmp_path.iterdir()) == []


def test_the_first_error_that_is_printed_is_the_sentence(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as error:
        run_tools(
            [shell("echo one; echo 'bad.v:1: Error: two' >&2; exit 3", "tool")], tmp_path, failure=Refusal
        )
    assert str(error.value).splitlines() == [
        "tool failed: bad.v:1: Error: two",
        "bad.v:1: Error: two",
        "one",
    ]
    with pytest.raises(Refusal, match="^tool failed: signal 9$"):
        run_tools([shell("kill -9 $$", "tool")], tmp_path, failure=Refusal)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="^no-such-program was not found: install it"):
        run_tool(["no-such-program"], "it", tmp_path)
    (tmp_path / "text").write_text("no program")
    with pytest.raises(ToolError, match="cannot be run: Permission denied"):
        run_tool([str(tmp_path / "text")], "it", tmp_path)


def gone(pid: int) -> bool:
    """Whether a process ends within two seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


#: Writes its own number, starts a program that does the same, and waits for it.
_FAMILY = "echo $$ > parent; (echo $(sh -c 'echo $PPID') > child; exec sleep 100) & wait"


def test_when_one_fails_the_others_are_killed_with_what_they_started(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(Refusal, match="second failed: no error"):
        waits = "while ! [ -s child ]; do sleep 0.05; done; echo no error; exit 1"
        run_tools([shell(_FAMILY, "first"), shell(waits, "second")], tmp_path, failure=Refusal)
    assert time.monotonic() - begin < 20
    for name in ("parent", "child"):
        assert gone(int((tmp_path / name).read_text())), name


def test_what_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_TIMEOUT", 0.5)
    with pytest.raises(Refusal, match=r"^first did not finish within 0\.5 seconds$"):
        run_tools([shell(_FAMILY, "first")], tmp_path, failure=Refusal)
    assert gone(int((tmp_path / "parent").read_text()))


_INTERRUPTED = """
import sys
from pathlib import Path
from tests.tooling.test_process import _FAMILY, run_tools, shell
run_tools([shell(_FAMILY)], Path(sys.argv[1]))
"""


def test_ctrl_c_ends_the_programs_within_a_second(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, tmp_path], stderr=subprocess.PIPE, text=True
    ) as running:
        while not ((tmp_path / "child").is_file() and (tmp_path / "child").read_text().strip()):
            assert running.poll() is None
            time.sleep(0.05)
        begin = time.monotonic()
        running.send_signal(2)
        assert "KeyboardInterrupt" in running.communicate()[1]
        assert time.monotonic() - begin < 5
    for name in ("parent", "child"):
        assert gone(int((tmp_path / name).read_text())), name
    assert {path.name for path in tmp_path.iterdir()} == {"parent", "child"}


def test_variables_that_change_a_build_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CPATH", "CXXFLAGS", "VERILATOR_ROOT", "VERILATOR_BIN", "MAKEFLAGS", "LIBRARY_PATH"):
        monkeypatch.setenv(name, ".")
    monkeypatch.setenv("KEPT", "yes")
    given = tool_environment(tmp_path)
    assert given["KEPT"] == "yes" and given["TMPDIR"] == str(tmp_path) and given["PATH"] == os.environ["PATH"]
    assert not {name for name in given if given[name] == "."}


def test_the_tools_own_caches_move_where_home_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path / "cache"))
    for name in ("XDG_CACHE_HOME", "YOWASP_CACHE_DIR", "CCACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "YOWASP_CACHE_DIR" not in tool_environment()
    monkeypatch.setenv("HOME", "/dev/null/home")
    given, folder = tool_environment(), tmp_path / "cache" / "tools"
    assert given["XDG_CACHE_HOME"] == str(folder) and given["YOWASP_CACHE_DIR"] == str(folder / "YoWASP")
    monkeypatch.setenv("YOWASP_CACHE_DIR", "/chosen")
    assert tool_environment()["YOWASP_CACHE_DIR"] == "/chosen"


@pytest.mark.parametrize(
    "script", ["echo 'fatal error: No space left on device' >&2; exit 1", "exit 1", "exit 0"]
)
def test_a_full_disk_is_seen_though_a_program_does_not_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    if not script.startswith("echo"):
        monkeypatch.setattr(process, "is_full", lambda folder, least=0: True)
    with pytest.raises(OSError, match="No space left on device") as error:
        run_tools([shell(script)], tmp_path, failure=Refusal)
    assert error.value.errno == errno.ENOSPC
