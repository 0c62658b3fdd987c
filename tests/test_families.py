"""The benchmark of many models on a folder made here, and the page that shows its record."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.scripts import script

families = script("families")
INPUTS, UNITS, SAMPLES = 8, 6, 4


def model(nodes: list[onnx.NodeProto], weights: np.ndarray) -> onnx.ModelProto:
    """`x` [1, 8] through `nodes` to `y` [1, 6], with the constant `w`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, UNITS])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of a family with a Softmax behind it, one that is refused, one of no family that only sorts,
    and one without samples."""
    path = tmp_path_factory.mktemp("strangers")
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(INPUTS, UNITS))
    product = helper.make_node("MatMul", ["x", "w"], ["s"], name="product")
    softmax = helper.make_node("Softmax", ["s"], ["y"], name="softmax")
    broken = weights.copy()
    broken[0, 0] = np.nan
    largest = [
        helper.make_node("Constant", [], ["k"], value_ints=[UNITS]),
        helper.make_node("TopK", ["x", "k"], ["y", "places"], name="largest"),
    ]
    for name, made in (
        ("mlp_small__script", model([product, softmax], weights)),
        ("mlp_broken", model([product, softmax], broken)),
        ("sorter", model(largest, weights)),
    ):
        onnx.save(made, path / f"{name}.onnx")
        np.savez(path / f"{name}.npz", x=draw.normal(size=(SAMPLES, 1, INPUTS)).astype(np.float32))
    onnx.save(model([product, softmax], weights), path / "without_samples.onnx")
    return path


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    report = tmp_path_factory.mktemp("report") / "families.json"
    assert families.main([str(folder), "--arch", "tiny", "--jobs", "2", "--json", str(report)]) == 0
    return json.loads(report.read_text())


def test_rows_say_what_runs_where(results: dict, folder: Path) -> None:
    broken, small, sorter = sorted(results["models"], key=lambda row: row["name"])
    assert (small["family"], small["exporter"]) == ("Perceptrons", "script")
    assert small["ends_as"] == "exact"
    assert small["macs"] == INPUTS * UNITS
    assert small["core_share"] == 1
    assert small["cycles"] > 0
    assert small["snr_db"] > 20
    assert small["steps"] == ["core", "host"]
    assert [reason["nodes"] for reason in small["host"]] == [{"Softmax": 1}]
    assert (broken["ends_as"], broken["exporter"]) == ("refused", None)
    assert "NaN" in broken["note"]
    assert (sorter["family"], sorter["ends_as"], sorter["macs"]) == (folder.name, "exact", 0)
    assert sorter["equals_float"]


def test_totals_count_models_with_products(results: dict) -> None:
    assert results["summary"] == {
        "models": 3,
        "exact": 2,
        "refused": 1,
        "with_products": 1,
        "whole": 1,
        "most": 1,
        "compared": 2,
        "near": 2,
    }


def test_the_results_do_not_name_where_the_folder_lies(results: dict, folder: Path) -> None:
    assert str(folder.parent) not in json.dumps(results)


def test_the_page_has_a_row_for_every_model(results: dict) -> None:
    grouped = families.by_family(results["models"])
    assert list(grouped) == ["Perceptrons", results["models"][-1]["family"]]
    cells = {row["name"]: families.shown(row) for rows in grouped.values() for row in rows}
    assert len(cells) == 3
    assert cells["mlp_small__script"][:4] == ("`mlp_small__script`", "script", "48", "100 %")
    assert cells["mlp_broken"][-1].startswith("refused: ")
    assert "TopK: " in cells["sorter"][-1]


def test_a_share_just_below_all_is_not_all(results: dict) -> None:
    row = next(row for row in results["models"] if row.get("core_share") == 1) | {"core_share": 0.99999}
    assert families.shown(row)[3] == "99.9 %"


@pytest.mark.parametrize("same", [False, True])
def test_folders_that_cannot_be_measured_are_refused(
    same: bool, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sorter.onnx").write_bytes((folder / "sorter.onnx").read_bytes())
    if same:
        (tmp_path / "sorter.npz").write_bytes((folder / "sorter.npz").read_bytes())
    assert families.main([str(tmp_path), *([str(folder)] if same else [])]) == 2
    assert ("two folders hold a model 'sorter'" if same else "no NAME.onnx") in capsys.readouterr().err
