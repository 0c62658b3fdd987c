"""Outputs that int8 takes too far from float, and what brings them nearer: 16 bits for hidden states, or the
layers that lose most on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from systolith.compiler.partition import Prepared
from systolith.evidence.fidelity import Fidelity, compare, has_recurrent_layers
from systolith.reference.plan import Plan
from systolith.spec.arch import ArchConfig

__all__ = ["accurate_plan"]

#: Decibels that a change must bring.
_GAIN = 6.0
#: Share of the core's multiply-accumulates that must stay there.
_KEPT = 0.9
#: Decibels below which an output is of no use, and the share that is enough then: the result comes first.
_USELESS = 10.0
_KEPT_USEFUL = 0.5
#: How often layers move.
_ROUNDS = 3
#: Layers that lose this much are candidates.
_LOSS = 3.0
#: How many of the layers that lose most are tried one by one.
_SINGLE = 5
#: Decibels of a layer that is lost on its own.
_LOST = 10.0


def accurate_plan(
    prepared: Prepared,
    arch: ArchConfig | None,
    bits: int | None,
    below: float,
    tell: Callable[[str], None],
) -> tuple[Plan, Fidelity | None]:
    """A plan and how far it is from float.

    Where an output is less than `below` dB from float, first hidden states of 16 bits are tried if `bits`
    leaves that open, then layers that lose most are moved to the host; a change is kept if the worst output
    gains at least 6 dB and at least nine tenths of the core's multiply-accumulates stay on it, or half of
    them where the output would be less than 10 dB from float, which is of no use.

    Parameters
    ----------
    bits  : of hidden states; None: 8, or 16 where that helps
    below : decibels; 0 changes nothing

    Raises
    ------
    CompileError   As `Prepared.plan`.
    """
    plan = prepared.plan(arch, bits)
    found = compare(prepared, plan)
    if found is None:
        return plan, None
    chosen = bits
    if bits is None and found.lowest < below and has_recurrent_layers(plan):
        wide = prepared.plan(arch, 16)
        wider = compare(prepared, wide)
        if wider is not None and wider.lowest >= found.lowest + _GAIN:
            tell(
                f"hidden states have 16 bits: with 8 the worst output would be {found.lowest:.1f} dB from "
                f"float, and is {wider.lowest:.1f}"
            )
            plan, found, chosen = wide, wider, 16
    macs = _macs(plan)
    moved: dict[str, str] = {}
    for _ in range(_ROUNDS):
        if found.lowest >= below or not macs:
            break
        better = _better(prepared, arch, chosen, found, plan, moved, macs)
        if better is None:
            break
        plan, after, moved = better
        tell(
            f"{len(moved)} nodes run on the host, where they cost no accuracy: the worst output is "
            f"{after.lowest:.1f} dB from float instead of {found.lowest:.1f}"
        )
        found = after
    return plan, found


def _better(
    prepared: Prepared,
    arch: ArchConfig | None,
    bits: int | None,
    found: Fidelity,
    plan: Plan,
    moved: Mapping[str, str],
    macs: int,
) -> tuple[Plan, Fidelity, dict[str, str]] | None:
    """The plan that gains most, of those that keep enough of the work on the core."""
    best = None
    for names in _candidates(prepared, found, plan):
        fresh = {name: reason for name, reason in names.items() if name not in moved}
        if not fresh:
            continue
        on_host = {**moved, **fresh}
        tried = prepared.plan(arch, bits, on_host)
        if _macs(tried) < (_KEPT_USEFUL if found.lowest < _USELESS else _KEPT) * macs:
            continue
        after = compare(prepared, tried)
        if after is None or after.lowest < found.lowest + _GAIN:
            continue
        if best is None or after.lowest > best[1].lowest:
            best = tried, after, on_host
    return best


def _candidates(prepared: Prepared, found: Fidelity, plan: Plan) -> Iterator[dict[str, str]]:
    """Sets of nodes of the file that could move: each of the layers that lose most, all that lose much,
    the first that is lost and all that are; each alone, and with all that the core computes before."""
    model = prepared.whole
    order = sorted(found.losses, key=lambda name: -found.losses[name])
    single = [[name] for name in order[:_SINGLE] if found.losses[name] >= _LOSS]
    many = [name for name in order if found.losses[name] >= _LOSS]
    lost = [name for name, value in found.layers.items() if value is not None and value < _LOST]
    bound = set() if prepared.bound is None else set(prepared.bound.nodes.values())
    # A state that is bound stays on the core, and so does its node.
    layers = {
        node.output: node.sources
        for part in plan.cores
        for node in part.graph.nodes
        if not bound.intersection(node.sources)
    }
    on_core = {name for sources in layers.values() for name in sources}
    seen: set[frozenset[str]] = set()
    for names in (*single, many, lost[:1], lost):
        alone = {source for name in names for source in layers.get(name, ())}
        above = {model.producer[name].name for name in names if name in model.producer}
        waiting = list(above)
        for name in waiting:
            for read in model.by_name[name].reads:
                node = model.producer.get(read)
                if node is not None and node.name not in above:
                    above.add(node.name)
                    waiting.append(node.name)
        for files in (alone, {prepared.origin(name) for name in above} & on_core):
            if files and frozenset(files) not in seen:
                seen.add(frozenset(files))
                yield {
                    name: "int8 costs too much accuracy there; --float-below 0 keeps it on the core"
                    for name in files
                }


def _macs(plan: Plan) -> int:
    return sum(
        node.op.macs(*(part.graph.tensors[name].shape for name in node.inputs))
        for part in plan.cores
        for node in part.graph.nodes
    )
