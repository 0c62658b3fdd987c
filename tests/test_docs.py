"""The generated pages are current, and the hand-written ones name only what exists."""

import re
from pathlib import Path

import pytest

from systolith.docs_pages import PAGES
from systolith.spec.arch import PRESETS
from systolith.spec.isa import isa_for
from systolith.spec.regs import CSRS

ROOT = Path(__file__).resolve().parent.parent
HAND_WRITTEN = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in PAGES),
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
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which does not exist"


def test_readme_names_real_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in HAND_WRITTEN:
        for target in re.findall(r"`?make ([a-z]+(?:-[a-z]+)?)`", path.read_text(encoding="utf-8")):
            assert target in targets, f"{path.name} names `make {target}`, which the Makefile does not have"
