"""What other libraries raise becomes an error with the node; what the compiler raises stays as it is."""

from __future__ import annotations

import pytest

from systolith.compiler.base.boundary import one_line, told
from systolith.compiler.base.errors import CompileError, QuantiseError, UnsupportedError


def raised(error: BaseException) -> BaseException:
    """What comes out of the block in which `error` was raised."""
    with pytest.raises(BaseException) as caught:
        with told(QuantiseError, "quantise", "conv1", "the library failed", "do this"):
            raise error
    return caught.value


@pytest.mark.parametrize(
    "error", [ValueError("no\nway"), RuntimeError("no way"), KeyError("x"), AssertionError()]
)
def test_errors_of_libraries_name_the_node(error: Exception) -> None:
    told_as = raised(error)
    assert isinstance(told_as, QuantiseError) and told_as.node == "conv1" and told_as.__cause__ is error
    assert str(told_as).startswith("quantise: node 'conv1': the library failed: ") and "\n" not in str(
        told_as
    )


def test_memory_that_runs_out_is_said_plainly() -> None:
    assert "not enough memory; do this" in str(raised(MemoryError()))


@pytest.mark.parametrize(
    "error",
    [UnsupportedError("import", "relu2", "a reason"), OSError(28, "No space left"), KeyboardInterrupt()],
)
def test_other_errors_stay_as_they_are(error: BaseException) -> None:
    assert raised(error) is error


def test_one_line_is_bounded_and_printable() -> None:
    assert one_line("a\n b\t\x1b[31mc") == "a b \\x1b[31mc"
    assert len(one_line("x" * 10_000)) < 400
    assert one_line(MemoryError()) == "MemoryError"
    assert issubclass(QuantiseError, CompileError)
