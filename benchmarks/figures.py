"""Figures of README and docs, written from the records in `results/`.

    .venv/bin/python benchmarks/figures.py [--check]

A page says where a figure stands, in comments that no reader sees:

    takes <!-- figure models/digits_cnn/array8/32:16/cycles -->6,772<!-- end --> cycles
    <!-- figure table cycles -->
    ...
    <!-- end -->

A path names a value of a record; a number gets commas between thousands, and a
decimal below 1,000; a share of 1 is a percentage where
the path ends in `:%`. `table NAME` is a function of this file, `lines PATH FIRST LAST` a part of a recorded
output. `--check` writes nothing and fails where a page differs or a record is stale.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from accuracy import worst
from families import SHOWN, by_family, shown
from record import FOLDER, load, stale

__all__ = ["PAGES", "render", "wanted"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_MARK = re.compile(r"<!-- figure (?P<what>[^>]+?) -->(?P<text>.*?)<!-- end -->", re.DOTALL)
#: Models of MLPerf Tiny, in the order of the tables.
MODELS = {
    "resnet8_int8_qdq": "image classification, ResNet-8",
    "kws_int8_qdq": "keyword spotting, DS-CNN",
    "vww_int8_qdq": "visual wake words, MobileNetV1-0.25",
    "ad_int8_qdq": "anomaly detection, autoencoder",
    "sww_int8_qdq": "streaming wake word",
}
#: Memory of 16 bytes a cycle after 32 cycles, and of 2 bytes a cycle after 20.
FAST, SLOW = "32:16", "20:2"


def render(text: str) -> str:
    """A page with today's records in its marks."""

    def replaced(match: re.Match[str]) -> str:
        what = match["what"]
        return f"<!-- figure {what} -->{wanted(what)}<!-- end -->"

    return _MARK.sub(replaced, text)


def wanted(what: str) -> str:
    """What stands in a mark."""
    kind, *rest = what.split(" ")
    if kind == "table":
        return f"\n{TABLES[rest[0]](*rest[1:])}\n"
    if kind == "lines":
        name, first, last = rest
        lines = value(name).splitlines()
        return "\n```\n" + "\n".join(lines[int(first) : int(last) if int(last) else None]) + "\n```\n"
    path, _, form = what.partition(":%")
    found = value(path)
    if what.endswith(":%"):
        return f"{found:.0%}".replace("%", " %")
    if isinstance(found, float):
        return f"{found:,.0f}" if found >= 1000 else f"{found:.1f}"
    return f"{found:,}" if isinstance(found, int) else str(found)


def value(path: str):
    """A value by its path: record, then keys."""
    name, *keys = path.split("/")
    document = load(name)
    found = document if keys and keys[0] in ("date", "commit", "command") else document["results"]
    for key in keys:
        found = found[int(key) if isinstance(found, list) else key]
    return found


# -- tables --------------------------------------------------------------------------------------------------
def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _measured(name: str, how: str) -> str:
    document = load(name)
    return f"\n\n*{how}, {document['date']}, at {document['commit']}.*"


def cycles() -> str:
    """MLPerf Tiny beside the peer."""
    measured = load("models")["results"]
    rows = []
    for model, title in MODELS.items():
        small, large = (measured[model][arch][FAST] for arch in ("array8", "array16"))
        cells = [title, f"{small['macs']:,}"]
        for info in (small, large):
            cells += [f"{info['cycles']:,}", _share(info["utilisation"]), f"{info['peer_cycles']:,}"]
        rows.append(tuple(cells))
    head = ("model", "MACs", "`array8` (64 MACs)", "of peak", "Vela, 64 MACs")
    return _table((*head, "`array16` (256 MACs)", "of peak", "Vela, 256 MACs"), rows) + _measured(
        "models", "Counted in RTL; Vela's are its estimates"
    )


def memories() -> str:
    """The same models, two memories."""
    measured = load("models")["results"]
    rows = [
        (
            title,
            *(
                f"{measured[model][arch][memory]['cycles']:,}"
                for arch in ("array8", "array16")
                for memory in (FAST, SLOW)
            ),
        )
        for model, title in MODELS.items()
    ]
    head = ("model", "array8, 16 B", "array8, 2 B", "array16, 16 B", "array16, 2 B")
    return _table(head, rows) + _measured("models", "Counted in RTL")


def losses() -> str:
    """Cycles above MACs / (R * C), by kind of layer."""
    measured = load("models")["results"]
    rows = []
    for model, title in MODELS.items():
        for arch in ("array8", "array16"):
            info = measured[model][arch][FAST]
            lost = _lost(info)
            cells = [title, arch, f"{info['cycles']:,}", _share(info["utilisation"])]
            rows.append((*cells, *(f"{lost[kind]:,}" if lost[kind] else "-" for kind in KINDS)))
    return _table(("model", "core", "cycles", "of peak", *KINDS), rows) + _measured(
        "models", "Counted in RTL"
    )


KINDS = ("first layer", "depthwise", "other Conv, MatMul", "AveragePool", "start and end")


def _lost(info: dict) -> dict[str, int]:
    lost = dict.fromkeys(KINDS, 0)
    for index, layer in enumerate(info["layers"]):
        ideal = (layer["macs"] - layer["skipped_macs"]) / info["peak_macs_per_cycle"]
        if layer["op"] in ("AveragePool", "GlobalAveragePool"):
            kind = "AveragePool"
        elif layer["op"] == "DepthwiseConv":
            kind = "depthwise"
        elif index == 0 and layer["op"] == "Conv":
            kind = "first layer"
        else:
            kind = "other Conv, MatMul"
        lost[kind] += round(layer["cycles"] - ideal)
    lost["start and end"] = info["cycles"] - sum(layer["cycles"] for layer in info["layers"])
    return lost


def weight_rows() -> str:
    """What fewer rows of weights a cycle cost."""
    measured = load("models")["results"]
    rows = [
        (str(count), str(16 * count), *(f"{measured[model][arch][FAST]['cycles']:,}" for model in MODELS))
        for count, arch in ((16, "array16"), (4, "array16-4"), (1, "array16-1"))
    ]
    names = (title.rpartition(", ")[2] for title in MODELS.values())
    return _table(("rows a cycle", "bytes a cycle", *names), rows) + _measured("models", "Counted in RTL")


def recurrent() -> str:
    """Steps of recurrent layers."""
    sizes = {"array16": "16 x 16", "array8": "8 x 8"}
    rows = [
        (
            info["model"].partition("_")[0].upper(),
            sizes[info["arch"]],
            str(info["weight_rows_per_cycle"]),
            f"{info['product_cycles']:,}",
            f"{info['step_cycles']:,}",
            f"{info['step_cycles'] - info['product_cycles']:,}",
            f"{info['frame_cycles']:,}",
            f"{info['cycles']:,}",
            f"{info['roofline_cycles']:,}",
            _share(info["utilisation"]),
        )
        for info in load("recurrent")["results"]
    ]
    head = ("layer", "core", "weight rows a cycle", "product", "step", "beyond", "frame", "sequence")
    return _table((*head, "roofline", "of peak"), rows) + _measured("recurrent", "Counted in RTL")


def boards() -> str:
    """Clock and resources of every board."""
    rows = []
    for name, report in load("boards")["results"].items():
        used = ", ".join(_resource(kind, **entry) for kind, entry in report["used"].items())
        clock = f"{report['clock_hz'] / 1e6:.1f} MHz" if report["clock_hz"] else "not routed here"
        rows.append((f"`{name}`", report["core"], f"{report['wanted_hz'] / 1e6:g} MHz", clock, used))
    head = ("board", "core", "clock wanted", "clock by the tools", "resources")
    return _table(head, rows) + _measured("boards", "By yosys and nextpnr")


def _resource(kind: str, used: int, available: int | None) -> str:
    return f"{used:,} of {available:,} {kind}" if available else f"{used:,} {kind}"


def board_cycles() -> str:
    """Models on the boards in simulation."""
    rows = [
        (f"`{name}`", row["model"], f"{row['cycles']:,}", f"{row['inferences_per_second']:,.0f}")
        for name, report in load("boards")["results"].items()
        for row in report["models"]
    ]
    head = ("board", "model", "cycles", "inferences a second at the wanted clock")
    return _table(head, rows) + _measured(
        "boards", "Cycles of the whole board in simulation, memory included"
    )


def agreement() -> str:
    """Layers and answers of the int8 models against ONNX Runtime and TensorFlow Lite Micro."""
    rows = []
    for info in load("accuracy")["results"]:
        alone, chained = worst(info["layers"])
        answers, steps = info.get("top1_agreement", {}), info.get("tflite_steps")
        reached = max(layer["chained_furthest"] for layer in info["layers"])
        rows.append(
            (
                info["name"],
                str(info["samples"]),
                f"{alone['equal']:.3%} ({alone['op']})",
                str(max(layer["alone_furthest"] for layer in info["layers"])),
                str(sum(layer["ties"] for layer in info["layers"])),
                f"{chained['chained_equal']:.1%} ({reached})",
                *(_percent(answers.get(name)) for name in ("qdq_ort", "tflite")),
                f"{steps['mean']:.2f} steps" if steps else "-",
            )
        )
    head = ("model", "samples", "least equal layer", "furthest", "ties", "all layers", "top-1 as ORT")
    rows = [tuple(cell.replace("%", " %") for cell in row) for row in rows]
    return _table((*head, "top-1 as TFLite", "mean distance from TFLite"), rows) + _measured(
        "accuracy", f"Run on {_where('accuracy')}"
    )


def accuracy() -> str:
    """Scores of the float models, the published int8 models, and our calibration of the float models."""
    rows = []
    for info in load("accuracy")["results"]:
        cell = _error if info["metric"] == "mse" else _percent
        metric = "mean square error" if info["metric"] == "mse" else f"top-1: {info['labels_are']}"
        score, own = info["score"], info.get("own", {})
        cells = (cell(score.get(name)) for name in ("float", "qdq_ort", "core", "tflite"))
        calibrated = (str(own.get("samples", "-")), cell(own.get("float")), f"**{cell(own.get('int8'))}**")
        rows.append((info["name"], metric, str(info["samples"]), *cells, *calibrated))
    head = ("model", "metric", "samples", "float", "int8 in ORT", "int8 on the core", "int8 in TFLite")
    return _table((*head, "held out", "float on these", "**our calibration, on these**"), rows) + _measured(
        "accuracy", f"Run on {_where('accuracy')}"
    )


def calibration() -> str:
    """Distance from float by the share of values that int8 covers."""
    models: dict[str, dict[str, str]] = {}
    for info in load("calibration")["results"]:
        same = "" if info["same_answers"] is None else f", {_percent(info['same_answers'])}"
        models.setdefault(info["model"], {})[info["choice"]] = f"{info['distance']:.4f}{same}"
    choices = next(iter(models.values()))
    rows = [(choice, *(cells[choice] for cells in models.values())) for choice in choices]
    return _table(("int8 covers", *models), rows) + _measured(
        "calibration", "Run on the reference, whose bits the RTL gives"
    )


def voice_agreement() -> str:
    """The voice detector's probabilities against float."""
    rows = [
        (
            {"calibration": "first half, which calibrated", "the rest": "second half, held out"}.get(
                info["frames"], info["frames"]
            ),
            f"{info['count']:,}",
            f"{info['mean_difference']:.4f}",
            f"{info['largest_difference']:.3f}",
            f"{info['same_decision']:.2%}".replace("%", " %"),
        )
        for info in load("voice")["results"]["agreement"]
    ]
    head = ("frames", "count", "mean difference", "largest", "same decision")
    return _table(head, rows) + _measured("voice", "Run on RTL")


def voice_choices() -> str:
    """The same with other settings of the quantiser."""
    rows = []
    for info in load("voice")["results"]["choices"]:
        every, _, held_out = info["frames"]
        difference, decision = (
            [form.format(frames[key]).replace("%", " %") for frames in (every, held_out)]
            for key, form in (("mean_difference", "{:.4f}"), ("same_decision", "{:.2%}"))
        )
        rows.append((info["choice"], *difference, *decision))
    head = ("setting", "mean difference", "held out", "same decision", "held out")
    return _table(head, rows) + _measured("voice", "Run on the reference, whose bits the RTL gives")


def voice() -> str:
    """A frame of the voice detector."""
    rows = [
        (
            info["arch"],
            "{bytes_per_cycle} bytes a cycle after {latency}".format(**info["memory"]),
            f"{info['frames']:,}",
            f"{info['most_cycles']:,}",
            f"{info['roofline_cycles']:,}",
            _share(info["utilisation"]),
            f"{info['hertz_for_real_time'] / 1000:,.0f} kHz",
        )
        for info in load("voice")["results"]["cores"]
    ]
    head = (
        "core",
        "memory",
        "frames run, all bit-equal",
        "cycles a frame",
        "roofline",
        "of peak",
        "real time at",
    )
    return _table(head, rows) + _measured("voice", "Counted in RTL")


def voice_layers() -> str:
    """Layers of the voice detector on array16."""
    first = next(info for info in load("voice")["results"]["cores"] if info["arch"] == "array16")
    rows = [
        (
            layer["name"],
            f"{layer['macs']:,}",
            f"{layer['cycles']:,}",
            f"{layer['roofline_cycles']:,}",
            layer["limit"],
        )
        for layer in first["layers"]
    ]
    total = (
        "all, with start and end",
        f"{first['macs']:,}",
        f"{first['cycles']:,}",
        f"{first['roofline_cycles']:,}",
        "",
    )
    return _table(("layer", "MACs", "cycles", "roofline", "bound by"), [*rows, total]) + _measured(
        "voice", "Counted in RTL"
    )


#: Generators of the fuzzer, and what they damage.
DAMAGED = {
    "images": "images",
    "onnx_files": "ONNX models",
    "inputs": "archives of inputs",
    "architectures": "TOML of cores",
    "assembly": "assembly and words",
}


def fuzz(by: str) -> str:
    """Cases of the fuzzer and how they ended: by `commands`, or by the `generators` that damage files."""
    rows = []
    for key, kinds in load("fuzz")["results"][by].items():
        title = f"`{key}`" if by == "commands" else DAMAGED[key]
        total = sum(kinds.values())
        done, refused = kinds.get("ok", 0), kinds.get("refused", 0)
        rows.append((title, f"{total:,}", f"{done:,}", f"{refused:,}", f"{total - done - refused:,}"))
    head = "command" if by == "commands" else "damaged files"
    return _table((head, "cases", "done", "refused in one sentence", "anything else"), rows)


def families() -> str:
    """Many models: a table per family."""
    document = load("families")
    parts = [
        f"## {family}\n\n{_table(SHOWN, [shown(row) for row in rows])}"
        for family, rows in by_family(document["results"]["models"]).items()
    ]
    where = f"*Estimated by the cycle model for {document['results']['arch']}"
    return "\n\n".join([*parts, f"{where}, {document['date']}, at {document['commit']}.*"])


def _share(part: float) -> str:
    return f"{part:.0%}".replace("%", " %")


def _percent(part: float | None) -> str:
    return "-" if part is None else _share(part)


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _where(name: str) -> str:
    """Backend and core of a record."""
    first = load(name)["results"][0]
    return f"{'the RTL' if first['on'] == 'rtl' else 'the ' + first['on']} of {first['arch']}"


TABLES: dict[str, Callable[..., str]] = {
    "accuracy": accuracy,
    "agreement": agreement,
    "calibration": calibration,
    "board-cycles": board_cycles,
    "boards": boards,
    "cycles": cycles,
    "families": families,
    "fuzz": fuzz,
    "losses": losses,
    "memories": memories,
    "recurrent": recurrent,
    "voice": voice,
    "voice-agreement": voice_agreement,
    "voice-choices": voice_choices,
    "voice-layers": voice_layers,
    "weight-rows": weight_rows,
}


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail where a page is not current"
    )
    given = parser.parse_args(arguments)
    status = 0
    for name in sorted(path.stem for path in FOLDER.glob("*.json")):
        if old := stale(name):
            print(f"results/{name}.json was measured on other {', '.join(old)}: run {load(name)['command']}")
            status = 1
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := render(text)) != text:
            print(f"{page.relative_to(ROOT)} {'differs' if given.check else 'written'}")
            if given.check:
                status = 1
            else:
                page.write_text(new, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
