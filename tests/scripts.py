"""Scripts of `benchmarks/` as modules; the folder is no package."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["script"]

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def script(name: str) -> ModuleType:
    """One of them, found as it finds its neighbours when it is run."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
