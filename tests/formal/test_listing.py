"""The list of proofs in the documentation is that of the suite."""

import pytest

from tests.formal import proofs
from tests.formal.kit.proof import PROOFS
from tests.formal.listing import PAGE, exchanged, rows, table, without_times

assert proofs, "importing them enters them in the list"


def test_the_documentation_lists_every_proof_and_every_plant() -> None:
    any_time = dict.fromkeys(PROOFS, (0.0, 0.0))
    found = without_times(table(PAGE.read_text(encoding="utf-8")))
    assert found == without_times(rows(PROOFS.values(), any_time)), (
        "run `python -m tests.formal`, which proves all and lists it"
    )


def test_no_text_breaks_the_table() -> None:
    for proof in PROOFS.values():
        for text in (proof.statement, *(plant.name for plant in proof.plants)):
            assert "|" not in text and "\n" not in text, f"{proof.name}: {text}"


def test_a_page_keeps_all_but_its_table() -> None:
    page = "before\n<!-- proofs: python -m tests.formal -->\nold\n<!-- end -->\nafter\n"
    assert table(exchanged(page, "new\n")) == "new\n"
    assert exchanged(page, "old\n") == page
    with pytest.raises(ValueError, match="no marks"):
        table("a page without")
