"""The generated pages are current, and the hand-written ones name only what exists."""

import json
import re
import runpy
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from systolith.docs_pages import PAGES
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Engine, isa_for
from systolith.spec.regs import CSRS
from tests.scripts import script

ROOT = Path(__file__).resolve().parent.parent
ONLINE = "https://github.com/systolith/systolith/blob/main/"
HAND_WRITTEN = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in PAGES),
]
FIGURES = script("figures")
PICTURES = runpy.run_path(str(ROOT / "docs" / "img" / "draw.py"))["PICTURES"]


def texts(picture: str) -> list[str]:
    """The lines of text of a picture."""
    return [
        element.text
        for element in ElementTree.fromstring(PICTURES[picture]()).iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_current(name: str) -> None:
    text = PAGES[name]()
    path = ROOT / "docs" / name
    assert path.read_text(encoding="utf-8") == text, f"docs/{name} is stale: run `make docs`"


def test_isa_page_holds_every_field() -> None:
    text = PAGES["isa.md"]()
    isa = isa_for(PRESETS["array16"])
    for fmt in isa.formats:
        section = text.split(f"\n## {fmt.mnemonic}\n")[1].split("\n## ")[0]
        for field in fmt.fields:
            assert f"| `{field.name}` |" in section


def test_csr_page_holds_every_register() -> None:
    text = PAGES["csr.md"]()
    for csr in CSRS.values():
        assert f"| 0x{csr.address:03x} | `{csr.name}` |" in text


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if target.startswith(ONLINE):
            # README's links are absolute, for the page on PyPI.
            assert (ROOT / re.sub(ONLINE, "", target)).exists(), f"{path.name} links to {target}"
        elif "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which does not exist"


def test_readme_names_real_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in HAND_WRITTEN:
        for target in re.findall(r"`?make ([a-z]+(?:-[a-z]+)?)`", path.read_text(encoding="utf-8")):
            assert target in targets, f"{path.name} names `make {target}`, which the Makefile does not have"


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_current(name: str) -> None:
    text = (ROOT / "docs" / "img" / name).read_text(encoding="utf-8")
    assert text == PICTURES[name](), f"docs/img/{name} is stale: run `python docs/img/draw.py`"


def test_core_picture_holds_every_engine() -> None:
    assert {engine.name for engine in Engine} <= set(texts("core.svg"))


def test_compile_picture_names_files_that_exist() -> None:
    for text in texts("compile.svg"):
        first, *others = text.split()
        if "/" in first and (ROOT / first).exists():
            folder = ROOT / first.split("/")[0]
            for name in others:
                assert (folder / name).exists() or (ROOT / name).exists(), (
                    f"compile.svg names {name} beside {first}"
                )
        else:
            assert not first.endswith(".py"), f"compile.svg names {first}, which does not exist"


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=lambda path: path.name)
def test_named_files_exist(path: Path) -> None:
    for name in re.findall(
        r"`((?:benchmarks|boards|compiler|docs|examples|host|hw|reference|sim|spec|systolith|tests)/[^`\s*<]*)`",
        path.read_text(encoding="utf-8"),
    ):
        assert (ROOT / name).exists(), f"{path.name} names {name}, which does not exist"


@pytest.mark.slow
def test_getting_started_runs_as_written(tmp_path: Path) -> None:
    """All `sh` blocks of the page, in order, in a folder that has the examples."""
    outputs = "\n".join(script("transcripts").run_blocks(tmp_path))
    assert "bit-exact: reference = machine = rtl" in outputs
    assert (tmp_path / "broken.vcd").is_file()


def test_pages_show_the_recorded_figures() -> None:
    """README and docs hold what `make figures` writes into them."""
    for page in FIGURES.PAGES:
        text = page.read_text(encoding="utf-8")
        assert FIGURES.render(text) == text, (
            f"{page.name} shows other figures than recorded: run `make figures`"
        )


@pytest.mark.parametrize("name", sorted(path.stem for path in FIGURES.FOLDER.glob("*.json")))
def test_recorded_figures_are_of_today(name: str) -> None:
    """Hardware and programs are those that were measured."""
    old = FIGURES.stale(name)
    assert not old, f"{', '.join(old)} changed since {name} was measured: run {FIGURES.load(name)['command']}"


def test_a_stale_record_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = sys.modules["record"]
    document = record.load("recurrent")
    document["depends"]["core:array8"] = "0" * 16
    (tmp_path / "recurrent.json").write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    assert record.stale("recurrent") == ["core:array8"]
