"""Names that strangers chose, as they are printed."""

import pytest

from systolith.report import Reporter
from systolith.spec.printable import excerpt, is_name, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv_1/Ünïcode 層", "conv_1/Ünïcode 層"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J", r"\x9b2J"),
        ("two\nlines\r", r"two\nlines\r"),
        ("a\tb", r"a\tb"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}fdp.exe", r"\u202efdp.exe"),
        ("zero\N{ZERO WIDTH SPACE}width", r"zero\u200bwidth"),
        ("line\N{LINE SEPARATOR}end", r"line\u2028end"),
        ("half \ud800", r"half \ud800"),
        # What a file name that is no UTF-8 becomes.
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
        ("\N{LANGUAGE TAG}", r"\U000e0001"),
        ("\x7f\0", r"\x7f\x00"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode("utf-8")


def test_a_tab_may_be_kept() -> None:
    assert printable("a\tb\x1b", keep="\t") == "a\tb\\x1b"


def test_excerpts_are_short_whatever_they_are_of() -> None:
    assert excerpt("a\x1b") == r"'a\x1b'"
    assert excerpt(10**6000) == f"a number of {(10**6000).bit_length()} bits"
    assert excerpt([[]] * 1000) == "list of 1000"
    for value in ("x" * 10**6, b"\xff" * 10**6, "\x1b" * 10**6, 1e300, None, {"a": 1}):
        assert len(excerpt(value)) <= 60


def test_names() -> None:
    assert is_name("a/b: c", 10)
    for wrong in ("", "x" * 11, "a\nb", "\ud800", "\x85"):
        assert not is_name(wrong, 10)


def test_lines_and_tables_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.line("out\x1b]0;owned\x07: int8\tx")
    reporter.table("ti\x1btle", ("a", "b"), [("x\ty", "\N{RIGHT-TO-LEFT OVERRIDE}z")])
    with reporter.progress() as progress:
        progress("importing \x1b[2J.onnx")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        r"out\x1b]0;owned\x07: int8" + "\tx",
        r"ti\x1btle",
        "a\tb",
        r"x\ty" + "\t" + r"\u202ez",
    ]
    assert captured.err.splitlines() == [r"importing \x1b[2J.onnx"]
