"""All operators of the quantised graph."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import systolith.reference
from systolith.reference.graph import Op

__all__ = ["operators"]


def operators() -> dict[str, type[Op]]:
    """Every operator that a module of this package defines, by name; the classes that others derive from are
    none."""
    for module in iter_modules(systolith.reference.__path__):
        import_module(f"systolith.reference.{module.name}")
    found, waiting = {}, [Op]
    for kind in waiting:
        derived = kind.__subclasses__()
        waiting += derived
        if not derived and kind.__module__.startswith("systolith.reference."):
            found[kind.__name__] = kind
    return dict(sorted(found.items()))
