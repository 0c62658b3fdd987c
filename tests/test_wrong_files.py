"""A file of another kind, given to a command: one sentence says what it is and what to do."""

from pathlib import Path

import numpy as np
import pytest

from systolith import api
from tests.command_line import invoke, refused, small_image
from tests.compiler.qdq import QdqModel

TFLITE = b"\x1c\0\0\0TFL3" + bytes(64)
#: Commands that take a model, and those that take a model or an image.
MODEL = [
    ("compile", "--arch", "tiny", "-o", "out.sysl"),
    ("explain", "--arch", "tiny"),
    ("verify", "--arch", "tiny"),
]
RUN = [("run", "--inputs", "x.npz"), ("run", "--inputs", "x.npz", "--arch", "tiny", "--on", "reference")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with inputs."""
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.zeros((1, 4), np.float32))
    return tmp_path


@pytest.mark.parametrize("command", [*MODEL, *RUN], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.tflite", TFLITE, "'m.tflite' is a TensorFlow Lite model; convert it with tf2onnx"),
        ("m.onnx", TFLITE, "'m.onnx' is a TensorFlow Lite model; convert it with tf2onnx"),
        (
            "m.pt",
            b"PK\x03\x04" + bytes(64),
            "'m.pt' is a zip archive; where it is a PyTorch model, export",
        ),
        ("m", b"a letter to nobody", "'m' is not an ONNX model: "),
        ("m.onnx", b"", "'m.onnx' is empty; export or download it again"),
    ],
)
def test_a_model_of_another_kind(command, name, content, said, folder, capsys) -> None:
    (folder / name).write_bytes(content)
    verb, *options = command
    assert said in refused(capsys, verb, name, *options)
    assert not (folder / "out.sysl").exists()


@pytest.mark.parametrize("command", MODEL, ids=lambda command: command[0])
@pytest.mark.parametrize("name", ["m.sysl", "m.onnx"])
def test_an_image_in_the_place_of_a_model(command, name, folder, capsys) -> None:
    (folder / name).write_bytes(small_image().to_bytes())
    verb, *options = command
    said = refused(capsys, verb, name, *options)
    assert f"'{name}' is an image made by systolith compile; run it with systolith run" in said


@pytest.mark.parametrize("content", [TFLITE, b"", b"SYSL and no more"])
@pytest.mark.parametrize("verb", [("run", "--inputs", "x.npz"), ("disasm",)], ids=lambda verb: verb[0])
def test_what_is_only_called_an_image(verb, content, folder, capsys) -> None:
    (folder / "m.sysl").write_bytes(content)
    said = "'m.sysl': this is not a Systolith image: give a file that systolith compile made"
    assert said in refused(capsys, verb[0], "m.sysl", *verb[1:])


@pytest.mark.parametrize("name", ["m.onnx", "m.sysl", "m"])
def test_a_path_without_a_file(name, folder, capsys) -> None:
    for verb, *options in (*MODEL, *RUN):
        assert f"{name}' does not exist: give " in refused(capsys, verb, name, *options)
    (folder / name).mkdir()
    for verb, *options in (*MODEL, *RUN):
        assert f"{name}' is a folder: give " in refused(capsys, verb, name, *options)


def test_content_counts_and_not_the_name(folder, capsys) -> None:
    model = QdqModel(3)
    x = model.input(1, 4)
    y = model.qdq(model.node("Relu", x), *model.parameters(0.05))
    (folder / "m.pb").write_bytes(model.build(y).SerializeToString())
    name = model.inputs[0].name
    np.savez("x.npz", **{name: np.zeros((1, 4), np.float32)})
    api.compile("m.pb", arch="tiny").save("m.bin")
    for given, *options in (("m.pb", "--arch", "tiny"), ("m.bin",)):
        status, _, err = invoke(capsys, "run", given, *options, "--inputs", "x.npz", "--on", "machine")
        assert status == 0, err
