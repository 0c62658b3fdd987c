"""From a quantised graph to instructions; importing this package fills `registry.LOWERINGS`."""

from importlib import import_module
from pkgutil import iter_modules

from systolith.compiler.lower.graph import lower_graph

__all__ = ["lower_graph"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
