"""The Python API in an editor, a notebook and a test: names, short texts, what the verbs take."""

import importlib.metadata
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import systolith
from systolith import api
from systolith.evidence.difference import Difference
from systolith.evidence.locate import Location
from tests.graphs import GraphBuilder

LOCATION = Location(
    kind="wrong",
    stream="run",
    layer="conv0",
    nodes=("conv0",),
    offset=0x60,
    text="OUTPUT dst=4",
    engine="OUTPUT",
    ordinal=1,
    cycle=1234,
    memory="act",
    expected=7,
    got=6,
)
WRONG = Difference(
    backend="rtl", output="y", elements=1, total=36, index=(0, 1), expected=7, got=6, location=LOCATION
)


@pytest.fixture(scope="module")
def graph():
    builder = GraphBuilder(5)
    return builder.finish(builder.conv(builder.input((1, 3, 6, 6))))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model of one convolution, whose graph has the name that an exporter gives to each."""
    rng = np.random.default_rng(0)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [node],
        "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 5, 5])],
        [numpy_helper.from_array(rng.normal(size=(3, 2, 3, 3)).astype(np.float32), "w")],
    )
    path = tmp_path_factory.mktemp("models") / "edges.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


SAMPLES = {"x": np.random.default_rng(1).normal(size=(8, 1, 2, 5, 5)).astype(np.float32)}


def test_names_are_listed_and_have_a_version() -> None:
    assert {"compile", "run", "verify", "explain", "Session", "__version__"} <= set(dir(systolith))
    assert systolith.__version__ == importlib.metadata.version("systolith")
    assert "calib" in inspect.signature(systolith.compile).parameters
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = systolith.absent


def test_a_type_checker_sees_the_verbs(tmp_path: Path) -> None:
    mypy = pytest.importorskip("mypy.api")
    script = tmp_path / "script.py"
    script.write_text("import systolith as sl\nreveal_type(sl.compile)\nreveal_type(sl.__version__)\n")
    out, _, _ = mypy.run([str(script), "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")])
    # Where an installation is editable in another way than strict, folders beside `systolith` are not found.
    assert 'Revealed type is "def (model: ' in out and "ImportOptions" in out, out
    assert 'Revealed type is "str"' in out or 'Revealed type is "builtins.str"' in out, out


def test_importing_the_package_is_light() -> None:
    code = "import sys, systolith; print(sorted({'numpy', 'onnx', 'amaranth'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class _Tables(HTMLParser):
    """Rows of the tables in a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_results_are_short_and_tables_in_a_notebook(graph) -> None:
    image = api.compile(graph, "array8")
    result = api.verify(graph, "array8", on="machine")
    with api.Session("machine", image) as session:
        one = session.run({name: np.zeros((1, 3, 6, 6), np.int8) for name in graph.inputs})
        assert repr(session).startswith("<Session on machine: <Image ")
        shown = (image, result, one, session, api.explain(graph, "array8"))
        for thing in shown:
            assert len(repr(thing)) < 200, repr(thing)
            assert "table" in _Tables(thing._repr_html_()).tags
    assert "bit-exact, reference = machine" in repr(result)


def test_what_is_explained_is_still_a_dict(graph) -> None:
    info = api.explain(graph, "array8")
    assert isinstance(info, dict) and json.loads(json.dumps(info)) == info
    assert info["layers"][0]["op"] == "Conv"


def test_a_name_is_no_markup(graph) -> None:
    image = replace(api.compile(graph, "array8"), model="<script>alert(1)</script>")
    assert "script" not in _Tables(image._repr_html_()).tags


def test_a_failed_assertion_says_layer_instruction_and_cycle(graph) -> None:
    good = api.verify(graph, "array8", on="machine")
    good.raise_if_different()
    assert good and good.bit_exact is True
    bad = replace(good, differences=(WRONG,))
    assert not bad and bad.bit_exact is False
    for text in (repr(bad), str(pytest.raises(api.DifferenceError, bad.raise_if_different).value)):
        assert "layer 'conv0', instruction 0x00060 (OUTPUT), cycle 1,234" in text
        assert len(text) < 230
    with pytest.raises(AssertionError):
        bad.raise_if_different()


def test_one_backend_may_be_a_string(graph) -> None:
    assert list(api.verify(graph, "array8", on="machine").backends) == ["reference", "machine"]
    with pytest.raises(api.ApiError, match="no backend 'moon'"):
        api.verify(graph, "array8", on="moon")


@pytest.mark.parametrize("on", ["machine", "reference"])
def test_the_input_of_a_model_with_one_may_be_an_array(on: str, model: Path) -> None:
    x = SAMPLES["x"][0]
    expected = api.run(model, {"x": x}, on=on, arch="tiny", calib=SAMPLES)
    got = api.run(model, x, on=on, arch="tiny", calib=SAMPLES)
    assert np.array_equal(got.outputs["y"], expected.outputs["y"])
    assert api.verify(model, "tiny", x, on="machine", calib=SAMPLES).bit_exact


def test_one_array_for_several_inputs_is_refused() -> None:
    builder = GraphBuilder(5)
    graph = builder.finish(builder.binary(builder.input((1, 3, 6, 6)), builder.input((1, 3, 6, 6))))
    with pytest.raises(api.ApiError, match="one array was given, and the model has the inputs 'in0', 'in1'"):
        api.run(api.compile(graph, "array8"), np.zeros((1, 3, 6, 6), np.int8))


def test_a_model_may_be_a_proto(model: Path) -> None:
    proto = onnx.load(model)
    before = proto.SerializeToString()
    image = api.compile(proto, "tiny", calib=SAMPLES)
    assert image.program == api.compile(model, "tiny", calib=SAMPLES).program
    assert api.verify(proto, "tiny", on="machine", calib=SAMPLES).as_dict()["snr_db"]
    assert proto.SerializeToString() == before


def test_a_proto_without_its_weights_says_what_is_needed(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "apart.onnx"
    onnx.save(onnx.load(model), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert api.compile(onnx.load(path), "tiny", calib=SAMPLES).layers
    with pytest.raises(api.ApiError, match="weights 'w' lie in a file of their own.*give the path"):
        api.compile(onnx.load(path, load_external_data=False), "tiny", calib=SAMPLES)
    with pytest.raises(api.ApiError, match="not int"):
        api.compile(5, "tiny")


def test_the_files_name_names_the_model(model: Path) -> None:
    assert api.explain(model, "tiny", calib=SAMPLES)["model"] == "edges"
    assert api.compile(model, "tiny", calib=SAMPLES).model == "edges"
