"""Cycles and utilisation of models on RTL: a table, and JSON for comparing revisions.

    .venv/bin/python benchmarks/models.py [MODEL.onnx | FOLDER ...] [--arch A]... [--memory LATENCY:BYTES]...
    [--layers] [--json FILE] [--record]

Without models it measures the digits CNN of the examples; of a folder it takes every `*_qdq.onnx`. Every
figure is the run of this moment, on seeded random inputs; a model whose levels differ is reported as such and
fails the benchmark. The peer's cycles, where `peers.json` has them, are for the same number of MACs per
cycle.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from record import record

from systolith import api
from systolith.reference.conv import Conv
from systolith.reference.graph import QGraph
from systolith.report import LAYER_COLUMNS, Reporter, layer_rows, write_json
from systolith.spec.arch import PRESETS, ArchConfig, load_arch
from systolith.spec.memory import MemoryTiming

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PEERS = json.loads(Path(__file__).with_name("peers.json").read_text(encoding="utf-8"))
#: The core of 16 x 16 with fewer rows of weights a cycle, for the docs.
NARROW = [
    dataclasses.replace(PRESETS["array16"], name=f"array16-{rows}", weight_rows_per_cycle=rows)
    for rows in (4, 1)
]
#: What the figures hold for.
CURRENT = ["core:array8", "core:array16", "programs:array8", "programs:array16"]
KEPT = (
    "bit_exact",
    "cycles",
    "estimated_cycles",
    "load_cycles",
    "macs",
    "skipped_macs",
    "peak_macs_per_cycle",
    "roofline_cycles",
    "utilisation",
    "peer_cycles",
)
KEPT_OF_LAYERS = ("name", "op", "macs", "skipped_macs", "cycles", "roofline_cycles", "limit")
COLUMNS = (
    "model",
    "arch",
    "memory",
    "bits",
    "MACs",
    "RTL cycles",
    "roofline",
    "of peak",
    "model's error",
    "peer",
    "peer / ours",
    "compile, s",
    "RTL, s",
)


def default_models() -> list[tuple[Path, dict | None]]:
    """Models of the examples, with calibration data where they are float."""
    sys.path.insert(0, str(EXAMPLES / "digits"))
    from data import load_split

    (images, _), _ = load_split()
    return [(EXAMPLES / "digits" / "digits_cnn.onnx", {"image": images[:256, None]})]


def found(paths: list[Path]) -> list[tuple[Path, dict | None]]:
    """The given models, and the quantised ones of the given folders."""
    return [
        (model, None)
        for path in paths
        for model in (sorted(path.glob("*_qdq.onnx")) if path.is_dir() else [path])
    ]


def memory_timing(text: str) -> MemoryTiming:
    """LATENCY:BYTES, in cycles and bytes per cycle."""
    latency, _, rate = text.partition(":")
    return MemoryTiming(latency=int(latency), bytes_per_cycle=int(rate) if rate else None)


def depthwise(graph: QGraph) -> set[str]:
    """Names of the convolutions with several groups of one input channel each."""
    return {
        node.name
        for node in graph.nodes
        if isinstance(node.op, Conv) and node.op.group > 1 and node.op.weights.shape[1] == 1
    }


def measure(path: Path, calib: dict | None, arch: str | ArchConfig, memory: MemoryTiming, progress) -> dict:
    """One model on one architecture and memory."""
    result = api.verify(
        path, arch, on=("machine", "rtl"), calib=calib, locate=False, progress=progress, memory=memory
    )
    info = result.as_dict()
    config = load_arch(arch)
    peer = PEERS["cycles"].get(path.stem, {}).get(str(config.macs_per_cycle))
    error = info["estimated_cycles"] / info["cycles"] - 1 if info["cycles"] else 0.0
    deep = depthwise(api.import_model(path, calib).graph)
    for layer in info["layers"]:
        if layer["name"] in deep:
            layer["op"] = "DepthwiseConv"
    return {
        **info,
        "model": path.stem,
        "memory": {"latency": memory.latency, "bytes_per_cycle": memory.rate(config)},
        "peer_cycles": peer,
        "model_error": error,
    }


def row(path: Path, info: dict) -> tuple[str, ...]:
    """Cells of one measurement."""
    memory = info["memory"]
    return (
        path.stem,
        info["arch"],
        f"{memory['bytes_per_cycle']} B/cycle, {memory['latency']} cycles",
        "equal" if info["bit_exact"] else "DIFFER",
        f"{info['macs']:,}",
        f"{info['cycles']:,}",
        f"{info['roofline_cycles']:,}",
        f"{info['utilisation']:.1%}",
        f"{info['model_error']:+.2%}",
        f"{info['peer_cycles']:,}" if info["peer_cycles"] else "-",
        f"{info['peer_cycles'] / info['cycles']:.2f}" if info["peer_cycles"] else "-",
        f"{info['compile_seconds']:.2f}",
        f"{info['backends']['rtl']['seconds']:.2f}",
    )


def _record(results: list[dict]) -> None:
    """What the docs take, by model, core and memory (latency:bytes per cycle)."""
    kept: dict = {}
    for info in results:
        memory = f"{info['memory']['latency']}:{info['memory']['bytes_per_cycle']}"
        kept.setdefault(info["model"], {}).setdefault(info["arch"], {})[memory] = {
            **{key: info[key] for key in KEPT},
            "layers": [{key: layer[key] for key in KEPT_OF_LAYERS} for layer in info["layers"]],
        }
    record("models", "make record MODELS=FOLDER", kept, CURRENT)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--arch", action="append", help="may be repeated; default: array8 and array16")
    parser.add_argument(
        "--memory",
        action="append",
        type=memory_timing,
        help="LATENCY:BYTES per cycle; may be repeated; default: 32 and the bus width",
    )
    parser.add_argument("--layers", action="store_true", help="print every layer, too")
    parser.add_argument("--json", default=None)
    parser.add_argument("--record", action="store_true", help="write results/models.json, for the docs")
    given = parser.parse_args(arguments)
    reporter = Reporter()
    rows, results = [], []
    memories = given.memory or [MemoryTiming()]
    cores = [(arch, memory) for arch in given.arch or ["array8", "array16"] for memory in memories]
    chosen = found(given.models)
    if given.record:
        cores += [(arch, memories[0]) for arch in NARROW]
    if given.record or not chosen:
        chosen = default_models() + chosen
    for path, calib in chosen:
        for arch, memory in cores:
            with reporter.progress() as progress:
                info = measure(path, calib, arch, memory, progress)
            rows.append(row(path, info))
            results.append(info)
            if given.layers:
                reporter.table(f"{path.stem} on {info['arch']}", LAYER_COLUMNS, layer_rows(info["layers"]))
    reporter.table(f"models on RTL; peer: {PEERS['source']}", COLUMNS, rows, left=4)
    write_json(given.json, {"results": results})
    if given.record:
        _record(results)
    return 0 if all(info["bit_exact"] for info in results) else 1


if __name__ == "__main__":
    sys.exit(main())
