"""Programs are checked before they are used, and come from where the user says."""

import logging
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from systolith.tooling import tools
from systolith.tooling.kinds import TOOLS
from systolith.tooling.policy import POLICIES, choose, policy
from systolith.tooling.process import ToolError
from systolith.tooling.tools import describe, find, recorded
from tests.tooling.fakes import SAID, Fakes

ROOT = Path(__file__).resolve().parent.parent.parent
#: A version below and one at the floor of each program, as it writes them.
VERSIONS = {
    "yosys": ("0.23", "0.50"),
    "nextpnr-ecp5": ("0.4", "0.8"),
    "nextpnr-ice40": ("0.7", "0.8"),
    "nextpnr-himbaechel": ("0.7", "0.10"),
    "verilator": ("5.006", "5.036"),
    "g++": ("8.4", "12.2"),
}
PACKAGED = [name for name in VERSIONS if TOOLS[name].package]


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    monkeypatch.setattr(tools, "_found", {})
    choose(None)
    yield Fakes(tmp_path / "bin", monkeypatch)
    choose(None)


def test_every_program_with_a_floor_is_tried_here() -> None:
    assert VERSIONS.keys() == SAID.keys() == {name for name, kind in TOOLS.items() if kind.floor}


@pytest.mark.parametrize("name", PACKAGED)
def test_pypis_stands_in_for_a_native_one_that_is_too_old(
    fakes: Fakes, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    old, enough = VERSIONS[name]
    path = fakes.version(name, old)
    with caplog.at_level(logging.WARNING, "systolith"):
        taken = find(name)
        find(name)
    assert taken.origin == "pypi" and taken.path != path
    (told,) = caplog.messages
    assert f"{path} has version {old}, and " in told and "or later is needed" in told
    assert f"{taken.text} from PyPI is taken instead" in told
    fakes.version(name, enough)
    tools._found.clear()
    assert find(name).path == path and find(name).version == enough and find(name).origin == "native"


@pytest.mark.parametrize("name", VERSIONS)
def test_where_native_ones_are_wanted_an_old_one_is_refused(fakes: Fakes, name: str) -> None:
    path = fakes.version(name, VERSIONS[name][0])
    choose("native")
    with pytest.raises(ToolError) as error:
        find(name)
    sentence = str(error.value)
    assert sentence.startswith(f"{path} has version {VERSIONS[name][0]}, and ") and "\n" not in sentence
    assert ("--tools pypi" if TOOLS[name].package else "apt-get install g++") in sentence


@pytest.mark.parametrize("name", PACKAGED)
def test_where_pypis_are_wanted_a_good_native_one_is_left(fakes: Fakes, name: str) -> None:
    fakes.version(name, "99.0")
    choose("pypi")
    assert find(name).origin == "pypi"


@pytest.mark.parametrize("name", ["yosys", "verilator"])
@pytest.mark.parametrize("script", ["echo something else", "exit 3", "kill -9 $$"])
def test_what_states_no_version_is_not_taken(fakes: Fakes, name: str, script: str) -> None:
    path = fakes.program(name, script)
    assert find(name).origin == "pypi"
    choose("native")
    with pytest.raises(ToolError, match=rf"^{re.escape(str(path))} does not (run|state a version)"):
        find(name)


def test_a_packer_comes_from_where_its_router_comes(fakes: Fakes) -> None:
    packer = fakes.program("icepack", "exit 1")
    fakes.version("nextpnr-ice40", "0.4")
    assert find("icepack").origin == "pypi"
    fakes.version("nextpnr-ice40", "0.9")
    tools._found.clear()
    assert find("icepack").path == packer


def test_a_script_of_a_package_on_path_counts_as_pypis(fakes: Fakes) -> None:
    script = tools._packaged("gowin_pack", TOOLS["gowin_pack"])
    assert isinstance(script, tools.Tool)
    (fakes.folder / "gowin_pack").symlink_to(script.path)
    fakes.version("nextpnr-himbaechel", "0.10")
    assert find("gowin_pack").origin == "pypi"
    choose("native")
    with pytest.raises(ToolError, match="^gowin_pack was not found on PATH"):
        find("gowin_pack")


@pytest.mark.parametrize("name", TOOLS)
def test_a_missing_program_is_named_with_the_remedy(
    fakes: Fakes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(package: str) -> None:
        raise tools.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(tools.importlib.metadata, "distribution", none)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(tools, "_found", {})
    with pytest.raises(ToolError) as error:
        find(name)
    kind = TOOLS[name]
    assert "was not found" in str(error.value)
    remedy = f"pip install -U 'systolith[{kind.extra}]'" if kind.package else f"apt-get install {kind.system}"
    assert remedy in str(error.value) and "\n" not in str(error.value)


def test_the_environment_and_then_the_command_line_choose(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert policy() == "auto"
    monkeypatch.setenv("SYSTOLITH_TOOLS", "native")
    assert policy() == "native"
    choose("pypi")
    assert policy() == "pypi"
    choose(None)
    monkeypatch.setenv("SYSTOLITH_TOOLS", "newest")
    with pytest.raises(ToolError, match=f"^SYSTOLITH_TOOLS is 'newest': choose from {', '.join(POLICIES)}$"):
        find("yosys")


def test_the_compiler_is_the_one_that_cxx_names(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fakes.program("my-c++", "echo 'clang version 14.0.6'")
    monkeypatch.setenv("CXX", "my-c++")
    assert find("g++").path == path and find("g++").version == "14.0"
    monkeypatch.setenv("CXX", "no-c++")
    with pytest.raises(ToolError, match=r"^no-c\+\+ was not found: install it"):
        find("g++")


def test_what_is_taken_is_recorded_where_it_is_asked_for(fakes: Fakes) -> None:
    fakes.version("nextpnr-ice40", "0.9")
    with recorded() as outer:
        find("yosys")
        with recorded() as inner:
            find("nextpnr-ice40")
    find("nextpnr-ecp5")
    assert list(outer) == ["yosys", "nextpnr-ice40"] and list(inner) == ["nextpnr-ice40"]
    path = str(fakes.folder / "nextpnr-ice40")
    assert inner["nextpnr-ice40"] == find("nextpnr-ice40").as_dict()
    assert describe(outer) == f"yosys {outer['yosys']['version']} (PyPI), nextpnr-ice40 0.9 ({path})"


def test_pyproject_asks_for_no_older_packages_than_the_floors() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [text for extra in project["optional-dependencies"].values() for text in extra]
    for name, kind in TOOLS.items():
        if kind.floor and kind.package:
            assert f"{kind.package}>={kind.floor[0]}.{kind.floor[1]}" in listed, name
