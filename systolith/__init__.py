"""Systolith: from an ONNX model to a systolic accelerator that computes it bit for bit.

The Python API has the verbs of the command line::

    import systolith as sl
    image = sl.compile("model.onnx", arch="array16")
    outputs = sl.run(image, {"x": x}, on="rtl")
    result = sl.verify("model.onnx", arch="array16")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from systolith.api import (
        ApiError,
        DifferenceError,
        Importing,
        InputError,
        Running,
        RunResult,
        Session,
        VerifyResult,
        compile,
        explain,
        run,
        verify,
    )

    __version__: str

# In a checkout the packages lie beside this folder, not in it (pyproject.toml maps them). Python finds this
# folder first where the root of the checkout is the working directory; there they must be found too.
_ROOT = Path(__file__).parent.parent
if (_ROOT / "pyproject.toml").is_file():
    __path__.append(str(_ROOT))

__all__ = [
    "ApiError",
    "DifferenceError",
    "Importing",
    "InputError",
    "RunResult",
    "Running",
    "Session",
    "VerifyResult",
    "__version__",
    "compile",
    "explain",
    "run",
    "verify",
]


def __getattr__(name: str) -> object:
    # Loaded on first use: `systolith.spec` and `systolith.hw` must not pull in the compiler and ONNX Runtime.
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("systolith")
    if name in __all__:
        from systolith import api

        return getattr(api, name)
    raise AttributeError(f"module 'systolith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
