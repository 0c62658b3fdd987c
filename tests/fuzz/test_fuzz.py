"""The quick part of the fuzzer: the first cases of every generator, and the fuzzer's own eyes."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from tests.fuzz.kit import (
    FAULTS,
    MEMORY_BYTES,
    Case,
    Outcome,
    Pool,
    case_at,
    generators,
    load_case,
    save_case,
    verdict,
)

SEED = 1


def test_no_case_ends_badly(tmp_path: Path) -> None:
    """One pool for all generators: what a process imports is paid for once."""
    found = generators()
    cases = [
        case
        for name, generator in found.items()
        for case in itertools.islice(case_at(generator, name, SEED), generator.QUICK)
    ]
    random.Random(SEED).shuffle(cases)
    failed = []
    with Pool() as pool:
        for case, outcome in pool.run(cases):
            if outcome.kind in FAULTS:
                folder = tmp_path / f"case{len(failed)}"
                save_case(folder, case, outcome)
                failed.append(
                    f"{outcome.kind}: {case.name}: python -m tests.fuzz replay {folder}: {outcome.stderr!r}"
                )
    assert not failed, f"seed {SEED}\n" + "\n".join(failed)


def test_every_generator_is_found_and_repeats() -> None:
    found = generators()
    assert {"architectures", "assembly", "images", "inputs"} <= found.keys()
    for name, generator in found.items():
        first, again = (list(itertools.islice(case_at(generator, name, 7), 3)) for _ in range(2))
        assert first == again, name
        assert next(case_at(generator, name, 7, 2)) == first[2]


CASE = Case(name="a", files={"a.bin": b"\0\xff"}, argv=("disasm", "a.bin"))


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "peak", "kind"),
    [
        (0, "fine\n", "", 0, "ok"),
        (2, "", "systolith: no\n", 0, "refused"),
        (1, "", "", 0, "status"),
        (2, "", "systolith: no\nreally\n", 0, "sentence"),
        (2, "", "", 0, "sentence"),
        (0, "", "[W:onnxruntime] something\n", 0, "sentence"),
        (2, "", "Traceback (most recent call last):\n", 0, "traceback"),
        (2, "", "systolith: internal error (KeyError: 1): please report it\n", 0, "internal error"),
        (0, "", "", MEMORY_BYTES + 1, "memory"),
        (0, "\x1b[31mred\n", "", 0, "escape"),
        (2, "", "systolith: \x9b31m\n", 0, "escape"),
    ],
)
def test_verdict(status: int, stdout: str, stderr: str, peak: int, kind: str) -> None:
    assert verdict(CASE, status, peak, stdout, stderr) == kind


def test_a_saved_case_comes_back(tmp_path: Path) -> None:
    save_case(tmp_path / "x", CASE, Outcome(kind="hang", status=None, seconds=1.0, peak=0))
    assert load_case(tmp_path / "x") == CASE


def test_hangs_crashes_and_tracebacks_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases that end in each of these ways; the pool goes on after each."""
    monkeypatch.setattr("tests.fuzz.kit.HANG_SECONDS", 3.0)
    monkeypatch.setenv("SYSTOLITH_FUZZ_SELF_TEST", "1")
    cases = [
        Case(name=name, files={}, argv=(name,), allowed=(0, 2))
        for name in ("hang", "crash", "raise", "--help")
    ]
    with Pool() as pool:
        kinds = {case.name: outcome.kind for case, outcome in pool.run(cases)}
    assert kinds == {"hang": "hang", "crash": "crash", "raise": "traceback", "--help": "ok"}
