"""One file per operator family; importing this package fills `registry.RULES`."""

from importlib import import_module
from pkgutil import iter_modules

from systolith.compiler.ops.registry import RULES

__all__ = ["RULES"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
