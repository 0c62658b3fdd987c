"""What a proof says of a design: inputs that may be anything, assumptions, claims and covers, each with a
name."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from amaranth.hdl import (
    Assert,
    Assume,
    Cat,
    Const,
    Cover,
    Elaboratable,
    Fragment,
    Instance,
    Module,
    Shape,
    Signal,
    Value,
)
from amaranth.hdl._mem import MemoryInstance
from amaranth.lib import wiring
from amaranth.lib.wiring import In

_T = TypeVar("_T")

__all__ = ["ASSUMED", "CLAIMED", "COVERED", "INVARIANT", "Claims", "Inside"]

#: Beginnings of the names of the signals that hold a condition.
ASSUMED, CLAIMED, INVARIANT, COVERED = "assumed__", "claimed__", "invariant__", "covered__"


class Claims:
    """Adds to a module what is assumed and claimed about the designs in it.

    Each condition is a signal whose name the prover gives back, so that a counterexample names the claim that
    fails.

    Parameters
    ----------
    m : Module   the top of the proof

    Attributes
    ----------
    ports : dict   name -> signal: what the prover may choose in every cycle
    names : list   names of all conditions, with their kind before them
    """

    def __init__(self, m: Module) -> None:
        self._m = m
        self.names: list[str] = []
        self.ports: dict[str, tuple[Value, None]] = {}

    def free(self, shape: Any, name: str) -> Signal:
        """A value that may be another in every cycle."""
        signal = Signal(shape, name=name)
        self.open(name, signal)
        return signal

    def constant(self, shape: Any, name: str) -> Signal:
        """A value that may be anything and stays as it is."""
        shape = Shape.cast(shape)
        signal = Signal(shape, name=name)
        self._m.submodules[f"any_{name}"] = Instance("$anyconst", p_WIDTH=shape.width, o_Y=signal)
        return signal

    def design(self, name: str, component: Elaboratable, inputs: Iterable[Signal] = ()) -> "Inside":
        """Adds a component; those of its inputs that the module does not drive may be anything.

        An input is driven as a whole or not at all. `inputs` are those of what is no `wiring.Component`.
        Returns the signals inside it, for invariants.
        """
        fragment = Fragment.get(component, None)
        self._m.submodules[name] = fragment
        if isinstance(component, wiring.Component):
            for path, member, value in component.signature.flatten(component):
                if member.flow is In:
                    self.open(f"{name}__{'__'.join(map(str, path))}", Value.cast(value))
        for signal in inputs:
            self.open(f"{name}__{signal.name}", signal)
        ports: list[Value] = []
        if isinstance(component, wiring.Component):
            ports = [Value.cast(value) for _, _, value in component.signature.flatten(component)]
        return Inside(name, fragment, ports)

    def assume(self, name: str, condition: Value) -> None:
        """Only runs in which the condition holds in every cycle are looked at."""
        self._m.d.comb += Assume(self._named(ASSUMED, name, condition))

    def claim(self, name: str, condition: Value) -> None:
        """The condition holds in every cycle of every run."""
        self._m.d.comb += Assert(self._named(CLAIMED, name, condition))

    def invariant(self, name: str, condition: Value) -> None:
        """A claim about the inside of a design, without which the induction does not see why the others
        hold."""
        self._m.d.comb += Assert(self._named(INVARIANT, name, condition))

    def cover(self, name: str, condition: Value) -> None:
        """The condition holds in some cycle of some run: the claims are about something."""
        self._m.d.comb += Cover(self._named(COVERED, name, condition))

    def _named(self, kind: str, name: str, condition: Value) -> Signal:
        assert kind + name not in self.names, f"two conditions are called {name!r}"
        self.names.append(kind + name)
        signal = Signal(name=kind + name)
        self._m.d.comb += signal.eq(Value.cast(condition).bool())
        return signal

    def open(self, name: str, signal: Value) -> None:
        """A signal that nothing drives may be anything."""
        assert name not in self.ports, f"two inputs are called {name!r}"
        self.ports[name] = (signal, None)


class Inside:
    """Signals inside a component, by the path of submodules and their name: ``inside["register.waits"]``.

    A submodule has the signals that it drives and those that it looks at, its inputs too.
    """

    def __init__(self, name: str, fragment: Fragment, ports: list[Value]) -> None:
        self._name, self._fragment, self._ports = name, fragment, ports
        self._signals: dict[str, list[Signal]] = {}
        self._memories: dict[str, MemoryInstance] = {}
        for path, found in _walk(fragment, ""):
            if isinstance(found, MemoryInstance):
                self._memories[path] = found
            elif not any(found is known for known in self._signals.setdefault(path, [])):
                self._signals[path].append(found)

    def __getitem__(self, path: str) -> Signal:
        found = self._find(self._signals, "signal", path)
        if len(found) > 1:
            raise KeyError(f"{self._name} has {len(found)} signals {path!r}")
        return found[0]

    def state(self, *states: str) -> Value:
        """The component's own state machine, called ``fsm``, is in one of these states."""
        fsm = self._fragment.find_generated("fsm")
        return Cat(fsm.state == fsm.encoding[state] for state in states).any()

    def own(self) -> list[Signal]:
        """The component's own signals, without its ports, in the order in which they are made. For those that
        Python gives no name: which of ``a, b = Signal(), Signal()`` has one, depends on its version."""
        found = [signal for path, signals in self._signals.items() if "." not in path for signal in signals]
        ports = [id(port) for port in self._ports]
        return sorted((signal for signal in found if id(signal) not in ports), key=lambda s: s.duid)

    def ports(self, path: str) -> tuple[Value, Value, Value, Value]:
        """Address and data of a memory's first write port, and of its first read port."""
        memory = self._find(self._memories, "memory", path)
        write, read = memory._write_ports[0], memory._read_ports[0]
        return write._addr, write._data, read._addr, read._data

    def rows(self, path: str) -> list[Signal]:
        """What lies in a memory, row by row: read ports that the design does not have."""
        memory = self._find(self._memories, "memory", path)
        data, found = memory._data, []
        for row in range(data.depth):
            value = Signal(Shape.cast(data.shape), name=f"{path.replace('.', '_')}_row{row}")
            addr = Const(row, (data.depth - 1).bit_length())
            memory.read_port(domain="comb", addr=addr, data=value, en=Const(1, 1), transparent_for=())
            found.append(value)
        return found

    def _find(self, among: dict[str, _T], kind: str, path: str) -> _T:
        if path not in among:
            raise KeyError(f"{self._name} has no {kind} {path!r}; it has {', '.join(sorted(among))}")
        return among[path]


def _walk(fragment: Fragment, prefix: str) -> Iterator[tuple[str, Signal | MemoryInstance]]:
    """Path of every signal that a fragment and those below it drive or look at, and of every memory."""
    for statements in fragment.statements.values():
        for signal in [*statements._lhs_signals(), *statements._rhs_signals()]:
            yield prefix + signal.name, signal
    if isinstance(fragment, MemoryInstance):
        yield prefix.removesuffix("."), fragment
    for below, name, _ in fragment.subfragments:
        yield from _walk(below, f"{prefix}{name}.")
