"""The command `cache`: builds kept from run to run, the key of a core for a CI cache, and clearing."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import click

from systolith.cli.options import arch_option, json_option, tools_option
from systolith.report import reporter_for, write_json
from systolith.spec.arch import load_arch
from systolith.spec.outputs import check_outputs
from systolith.tooling.cache import Cache
from systolith.tooling.location import cache_limit
from systolith.tooling.tools import recorded

__all__ = ["cache", "size_text"]

#: What an entry's name begins with, and what it is.
_KINDS = {
    "verilog": "generated Verilog",
    "netlist": "netlists",
    "model": "models of RTL",
    "runtime": "Verilator's library",
    "library": "C++ models",
    "bench": "cocotb benches",
    "benchlib": "Verilator's library for benches",
}


def size_text(count: int) -> str:
    """Bytes in the largest unit that leaves at least one."""
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def cache(context: click.Context, json_path: str | None) -> None:
    """Show where builds are kept and how large they are; `key` and `clear` do more.

    The cache holds what SYSTOLITH_CACHE_LIMIT says (2G); what was used least recently goes first.
    """
    if context.invoked_subcommand is not None:
        return
    kept = Cache()
    entries, limit = kept.entries(), cache_limit()
    counts, sizes = Counter[str](), Counter[str]()
    for entry in entries:
        kind = entry.folder.name.partition("-")[0]
        counts[kind] += 1
        sizes[kind] += entry.size
    total, outside = sum(sizes.values()), _tool_bytes(kept.root)
    check_outputs({"--json": json_path})
    reporter = reporter_for(json_path)
    rows = [(_KINDS.get(kind, kind), f"{counts[kind]:,}", size_text(sizes[kind])) for kind in sorted(counts)]
    if rows:
        reporter.table(f"builds in {kept.root}", ("what", "entries", "size"), rows, left=1)
    reporter.line(f"{kept.root}: {len(entries):,} entries, {size_text(total)} of at most {size_text(limit)}")
    if outside:
        reporter.line(f"{kept.root / 'tools'}: {size_text(outside)}, compiled tools from PyPI")
    write_json(
        json_path,
        {
            "path": str(kept.root),
            "bytes": total,
            "limit": limit,
            "entries": len(entries),
            "kinds": {kind: {"entries": counts[kind], "bytes": sizes[kind]} for kind in sorted(counts)},
            "tool_bytes": outside,
        },
    )


@cache.command()
@arch_option
@tools_option
@json_option
def key(arch: str, json_path: str | None) -> None:
    """Print the key of a core: it changes when its model on RTL has to be built again.

    A CI that stores the cache's folder under this key builds each core once.
    """
    from systolith.sim.verilator import core_model_key

    config = load_arch(arch)
    name = re.sub(r"[^\w.-]", "_", config.name)
    with recorded() as tools:
        text = f"systolith-{name}-{core_model_key(config)}"
    check_outputs({"--json": json_path})
    reporter = reporter_for(json_path)
    reporter.line(text)
    write_json(json_path, {"key": text, "arch": config.name, "path": str(Cache().root), "tools": tools})


@cache.command()
@json_option
def clear(json_path: str | None) -> None:
    """Remove every build that no running process uses."""
    kept = Cache()
    before = sum(entry.size for entry in kept.entries()) + _tool_bytes(kept.root)
    removed = kept.clear()
    left = kept.entries()
    freed = before - sum(entry.size for entry in left) - _tool_bytes(kept.root)
    check_outputs({"--json": json_path})
    reporter = reporter_for(json_path)
    reporter.line(f"{kept.root}: removed {removed:,} entries, {size_text(max(freed, 0))}")
    if left:
        reporter.line(f"{len(left):,} entries stay: a process uses them, or they cannot be removed")
    write_json(
        json_path,
        {"path": str(kept.root), "removed": removed, "freed_bytes": max(freed, 0), "left": len(left)},
    )


def _tool_bytes(root: Path) -> int:
    """Bytes of the tools' own caches, where they are kept in ours."""
    return sum(path.stat().st_size for path in (root / "tools").rglob("*") if path.is_file())
