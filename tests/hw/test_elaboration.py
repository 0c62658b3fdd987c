"""Every component of hw can be elaborated twice: nothing of the design lives outside `elaborate`."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest
from amaranth.hdl import Fragment
from amaranth.lib import wiring

import systolith.hw
from systolith.hw.soc.on_chip import OnChipRam
from systolith.hw.soc.sdram_chip import ULX3S_SDRAM
from systolith.hw.soc.system import make_memory
from systolith.spec.arch import PRESETS, ArchConfig
from systolith.spec.isa import Engine

FULL, COMPACT = PRESETS["tiny"], PRESETS["icebreaker"]


#: A value for each parameter, by its name, that a constructor of a component may ask for.
ARGUMENTS: dict[str, Callable[[ArchConfig], object]] = {
    "addr_bits": lambda arch: 32,
    "arch": lambda arch: arch,
    "bus_bits": lambda arch: arch.bus_bits,
    "count": lambda arch: 3,
    "divisor": lambda arch: 16,
    "engine": lambda arch: Engine.LOAD,
    "memory": lambda arch: make_memory(
        OnChipRam(bytes=1 << 12, clock_hz=12_000_000) if arch.compact else ULX3S_SDRAM, arch
    ),
    "shape": lambda arch: 8,
    "size": lambda arch: 1 << 12,
    "timing": lambda arch: ULX3S_SDRAM,
}


def components() -> list[type]:
    """Every component that a module under hw defines."""
    found = []
    for info in pkgutil.walk_packages(systolith.hw.__path__, "systolith.hw."):
        module = importlib.import_module(info.name)
        found += [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and issubclass(value, wiring.Component)
            and value.__module__ == info.name
        ]
    return found


def build(component: type, arch: ArchConfig) -> wiring.Component:
    """An instance; a parameter without a default that `ARGUMENTS` does not know fails by name."""
    given = {}
    for name, parameter in inspect.signature(component).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and (
            parameter.default is parameter.empty
        ):
            assert name in ARGUMENTS, (
                f"{component.__qualname__} asks for {name!r}: give it a value in ARGUMENTS"
            )
            given[name] = ARGUMENTS[name](arch)
    return component(**given)


def outline(fragment: Fragment) -> tuple:
    """What a fragment is made of: its statements' number by domain, and the same of each part."""
    statements = {domain: len(body) for domain, body in getattr(fragment, "statements", {}).items()}
    return (statements, [(name, outline(part)) for part, name, _ in fragment.subfragments])


def cases() -> list:
    """Components with the configurations that they are for: those of hw.soc serve both kinds of core."""
    result = []
    for component in components():
        parts = component.__module__.split(".")
        takes_arch = "arch" in inspect.signature(component).parameters
        kinds = {"compact": (COMPACT,), "soc": (FULL, COMPACT) if takes_arch else (FULL,)}
        for arch in kinds.get(parts[2], (FULL,)):
            result.append(pytest.param(component, arch, id=f"{component.__qualname__}-{arch.name}"))
    return result


@pytest.mark.parametrize(("component", "arch"), cases())
def test_elaborates_twice(component, arch):
    instance = build(component, arch)
    first, second = (outline(Fragment.get(instance, None)) for _ in range(2))
    assert first == second


def test_all_folders_of_hw_have_components():
    """The walk would pass over a folder that is no package."""
    folders = {component.__module__.split(".")[2] for component in components()}
    assert folders == {"compact", "core", "engine", "leaf", "soc"}
