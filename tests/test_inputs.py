"""Arrays that a model takes: what does not fit is refused by name."""

from pathlib import Path

import numpy as np
import pytest

from systolith import api

SPECS = {"x": ((1, 4), "float32"), "k": ((2,), "int8")}


@pytest.mark.parametrize(
    ("arrays", "culprit"),
    [
        ({"x": np.zeros((1, 4), np.float32)}, "'k' is missing"),
        ({"x": np.zeros((1, 4), np.float32), "k": np.zeros(2, np.int8), "z": np.zeros(1)}, "no input 'z'"),
        ({"x": np.zeros((4, 1), np.float32), "k": np.zeros(2, np.int8)}, "'x' must have shape"),
        (
            {"x": np.zeros((1, 4), np.float64), "k": np.zeros(2, np.int8)},
            "'x' must be of type float32, not float64",
        ),
        ({"x": np.full((1, 4), np.nan, np.float32), "k": np.zeros(2, np.int8)}, "'x' holds NaN"),
    ],
)
def test_wrong_inputs_are_named(arrays: dict[str, np.ndarray], culprit: str) -> None:
    with pytest.raises(api.InputError, match=culprit):
        api.check_inputs(arrays, SPECS)


def test_right_inputs_pass() -> None:
    api.check_inputs({"x": np.zeros((1, 4), np.float32), "k": np.zeros(2, np.int8)}, SPECS)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x93NUMPY", b"text"])
def test_wrong_npz_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(api.ApiError, match=r"inputs .*x\.npz"):
        api.load_arrays(path, "inputs")
