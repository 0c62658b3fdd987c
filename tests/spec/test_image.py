"""The program image: round trip, and refusal of truncated, damaged and foreign files."""

import dataclasses
import hashlib

import pytest

from systolith.spec.arch import PRESETS
from systolith.spec.image import IMAGE_VERSION, Image, ImageError
from systolith.spec.isa import isa_for
from systolith.spec.manifest import IoTensor, LayerInfo
from systolith.spec.plan import CoreStep, HostNode, HostStep, Port, transfers

TINY = PRESETS["tiny"]


def _image(arch=TINY):
    isa = isa_for(arch)
    tensor = IoTensor(
        name="x", shape=(1, 3, 2), dtype="float32", scale=0.5, zero_point=-3, offset=64, order=(0, 2, 1)
    )
    layer = LayerInfo(
        name="n",
        op="Conv",
        nodes=("n", "relu"),
        tensor="y",
        macs=4,
        cycles=9,
        roofline_cycles=1,
        limit="array",
    )
    port = Port(name="x", shape=tensor.shape, dtype=tensor.dtype)
    program = isa.encode(isa.make("HALT")) + isa.encode(isa.make("NOP")) + isa.encode(isa.make("HALT"))
    return Image(
        arch=arch,
        model="m",
        program=program,
        load_entry=0,
        load_count=1,
        data_bytes=128,
        inputs=(port,),
        outputs=(port,),
        tensors=(tensor,),
        steps=(
            CoreStep(
                entry=isa.word_bytes,
                count=2,
                cycles=9,
                inputs=("x",),
                outputs=("x",),
                layers=(layer,),
                owners=(0, -1),
            ),
        ),
    )


def test_round_trip(tmp_path):
    image = _image()
    image.save(tmp_path / "m.sysl")
    back = Image.load(tmp_path / "m.sysl")
    assert back == image and back.to_bytes() == image.to_bytes()
    assert back.tensors[0].bytes == 6
    assert back.core is back.cores[0] and back.cycles == 9 and len(back.layers) == 1
    assert [(offset, instr.mnemonic) for offset, instr in back.stream("run")] == [
        (isa_for(TINY).word_bytes, "NOP"),
        (2 * isa_for(TINY).word_bytes, "HALT"),
    ]


def _divided():
    """Four steps: of the host, of the core, of the host, and of the core again."""
    node = HostNode(
        name="softmax",
        op="Softmax",
        reason="operator Softmax is not supported",
        macs=0,
        elements=6,
        bytes=6,
    )
    image = _image()
    size, first = isa_for(TINY).word_bytes, image.core
    x, raw, middle, y = (
        dataclasses.replace(image.tensors[0], name=name, offset=16 * at)
        for at, name in enumerate(("x", "raw", "middle", "y"))
    )
    return dataclasses.replace(
        image,
        program=image.program + image.program[size:],
        outputs=(Port(name="y", shape=None, dtype="float32"), Port(name="raw", shape=None, dtype="int64")),
        tensors=(x, raw, middle, y),
        steps=(
            HostStep(model=b"first", inputs=("x",), outputs=("a",), nodes=(node,)),
            dataclasses.replace(first, outputs=("raw",)),
            HostStep(model=b"last", inputs=("raw", "a"), outputs=("middle",)),
            dataclasses.replace(first, entry=3 * size, cycles=4, inputs=("raw", "middle"), outputs=("y",)),
        ),
    )


def test_steps_round_trip():
    image = _divided()
    back = Image.from_bytes(image.to_bytes())
    assert back == image and back.to_bytes() == image.to_bytes()
    assert image.to_bytes().endswith(image.program + b"first" + b"last")
    assert back.cycles == 13 and len(back.layers) == 2
    assert [node.op for node in back.host_nodes] == ["Softmax"]
    assert [offset for offset, _ in back.stream("run", 1)] == [n * isa_for(TINY).word_bytes for n in (3, 4)]
    with pytest.raises(ValueError, match="too many values"):
        assert back.core


def test_the_host_writes_and_reads_what_it_must():
    image = _divided()
    first, second = transfers(image.steps, [port.name for port in image.outputs])
    assert (first.write, first.read) == (("x",), ("raw",))
    # What the first core step gave is there already, though the host has it too.
    assert (second.write, second.read) == (("middle",), ("y",))
    first, second = transfers((image.steps[1], image.steps[3]), ["y"])
    assert (first.write, first.read) == (("x",), ()) and second.write == ("middle",)


def test_damaged_models_of_host_steps_are_noticed():
    data = _divided().to_bytes()
    for position in range(len(data) - len(b"firstlast"), len(data)):
        with pytest.raises(ImageError, match=r"^the image is damaged: its checksum does not match$"):
            Image.from_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    for cut in (1, len(b"last"), len(b"firstlast")):
        with pytest.raises(ImageError, match=r"^the image is truncated or has trailing bytes"):
            Image.from_bytes(data[:-cut])


def test_models_that_the_header_does_not_describe_are_refused():
    # Whole and with a right checksum, but made by something else: the models' length follows the program's.
    data = bytearray(_image().to_bytes()) + b"ab"
    data[24:32] = (2).to_bytes(8, "little")
    data[32:64] = hashlib.sha256(data[64:]).digest()
    with pytest.raises(
        ImageError,
        match=r"^the image's header is not valid: steps describes 0 bytes of models for the host, and the "
        r"file holds 2: compile the model again$",
    ):
        Image.from_bytes(bytes(data))


@pytest.mark.parametrize("version", [1, 4])
def test_an_image_of_an_old_format_is_refused_however_short(version):
    for rest in (b"", bytes(44), bytes(500)):
        with pytest.raises(
            ImageError,
            match=rf"^the image has format version {version}, this is version {IMAGE_VERSION}: compile the "
            rf"model again$",
        ):
            Image.from_bytes(b"SYSLIMG\0" + version.to_bytes(4, "little") + rest)
    with pytest.raises(ImageError, match=r"^the image is truncated: 20 bytes$"):
        Image.from_bytes(_image().to_bytes()[:20])


def test_every_damaged_byte_is_noticed():
    data = _image().to_bytes()
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(ImageError):
            Image.from_bytes(bytes(damaged))


def test_refusals(tmp_path):
    data = _image().to_bytes()
    with pytest.raises(
        ImageError, match=r"^this is not a Systolith image: give a file that systolith .* made$"
    ):
        Image.from_bytes(b"PK\x03\x04" + data)
    with pytest.raises(
        ImageError, match=rf"^the image is truncated or has trailing bytes: {len(data) - 1} instead of"
    ):
        Image.from_bytes(data[:-1])
    with pytest.raises(ImageError, match=r"^the image is truncated or has trailing bytes"):
        Image.from_bytes(data + b"\0")
    with pytest.raises(ImageError, match=r"^the image is damaged: its checksum does not match$"):
        Image.from_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(
        ImageError, match=rf"format version 9, this is version {IMAGE_VERSION}: compile the model again$"
    ):
        Image.from_bytes(data[:8] + (9).to_bytes(4, "little") + data[12:])
    with pytest.raises(ImageError, match=r"^cannot read .*: No such file"):
        Image.load(tmp_path / "none.sysl")


def test_foreign_revision_is_refused(monkeypatch):
    data = _image().to_bytes()
    monkeypatch.setattr("systolith.spec.image.core_digest", lambda arch: bytes(16))
    with pytest.raises(
        ImageError, match=r"another revision of the instruction set: compile the model again$"
    ):
        Image.from_bytes(data)


def test_the_digest_ignores_the_name():
    assert _image(dataclasses.replace(TINY, name="other")).digest == _image().digest
