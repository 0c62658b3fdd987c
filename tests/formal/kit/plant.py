"""Bugs planted on purpose: a module of the project with one piece of its text exchanged."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from unittest.mock import patch

__all__ = ["Plant", "PlantError"]


class PlantError(AssertionError):
    """The text to be exchanged does not stand in the module exactly once."""


@dataclass(frozen=True)
class Plant:
    """A bug.

    Parameters
    ----------
    name : str      what is wrong, in a few words
    module : str    as ``systolith.hw.leaf.nest``
    old, new : str  text that stands in the module once, and what stands there instead
    claim : str     the proof's claim that the bug breaks
    """

    name: str
    module: str
    old: str
    new: str
    claim: str

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Everything that the project's modules took from this one is exchanged for the same with the bug.

        Raises
        ------
        PlantError   If the text is not there, or more than once.
        """
        module = importlib.import_module(self.module)
        source = inspect.getsource(module)
        if (count := source.count(self.old)) != 1:
            raise PlantError(
                f"plant {self.name!r}: {self.module} has {self.old!r} {count} times, not once; "
                "write the plant for the text as it is now"
            )
        changed = ModuleType(module.__name__)
        changed.__file__, changed.__package__, changed.__spec__ = (
            module.__file__,
            module.__package__,
            module.__spec__,
        )
        exec(compile(source.replace(self.old, self.new), module.__file__ or "", "exec"), changed.__dict__)
        own = {
            name: value
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__
        }
        with ExitStack() as stack:
            for user in _project_modules():
                for name, value in list(vars(user).items()):
                    if any(value is original for original in own.values()):
                        stack.enter_context(patch.object(user, name, getattr(changed, value.__name__)))
            yield


def _project_modules() -> list[ModuleType]:
    """Loaded modules of the project and of its proofs."""
    return [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith(("systolith.", "tests.formal."))
    ]
