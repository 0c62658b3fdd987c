"""The program image: round trip, and refusal of truncated, damaged and foreign files."""

import dataclasses
import hashlib

import pytest

from systolith.spec.arch import PRESETS
from systolith.spec.image import IMAGE_VERSION, Image, ImageError
from systolith.spec.isa import isa_for
from systolith.spec.manifest import IoTensor, LayerInfo
from systolith.spec.segments import HostNode, HostPart, Port

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
    program = isa.encode(isa.make("HALT")) + isa.encode(isa.make("NOP")) + isa.encode(isa.make("HALT"))
    return Image(
        arch=arch,
        model="m",
        program=program,
        load_entry=0,
        load_count=1,
        run_entry=isa.word_bytes,
        run_count=2,
        data_bytes=128,
        inputs=(tensor,),
        outputs=(tensor,),
        layers=(layer,),
        owners=(0, -1),
        cycles=9,
    )


def test_round_trip(tmp_path):
    image = _image()
    image.save(tmp_path / "m.sysl")
    back = Image.load(tmp_path / "m.sysl")
    assert back == image and back.to_bytes() == image.to_bytes()
    assert back.inputs[0].bytes == 6
    assert [(offset, instr.mnemonic) for offset, instr in back.stream("run")] == [
        (isa_for(TINY).word_bytes, "NOP"),
        (2 * isa_for(TINY).word_bytes, "HALT"),
    ]


def _divided():
    node = HostNode(
        name="softmax",
        op="Softmax",
        segment="after",
        reason="operator Softmax is not supported",
        macs=0,
        elements=6,
        bytes=6,
    )
    ports = Port(name="x", shape=(1, 3, 2), dtype="float32"), Port(name="y", shape=None, dtype="int64")
    host = HostPart(before=b"first", after=b"last", inputs=ports[:1], outputs=ports[1:], nodes=(node,))
    return dataclasses.replace(_image(), host=host)


def test_host_segments_round_trip():
    image = _divided()
    back = Image.from_bytes(image.to_bytes())
    assert back == image and back.to_bytes() == image.to_bytes()
    assert image.to_bytes().endswith(image.program + b"first" + b"last")


def test_damaged_host_segments_are_noticed():
    data = _divided().to_bytes()
    for position in range(len(data) - len(b"firstlast"), len(data)):
        with pytest.raises(ImageError, match=r"^the image is damaged: its checksum does not match$"):
            Image.from_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    for cut in (1, len(b"last"), len(b"firstlast")):
        with pytest.raises(ImageError, match=r"^the image is truncated or has trailing bytes"):
            Image.from_bytes(data[:-cut])


def test_segments_that_the_header_does_not_describe_are_refused():
    # Whole and with a right checksum, but made by something else: the two segments' lengths follow the
    # program's.
    data = bytearray(_image().to_bytes()) + b"ab"
    data[24:40] = (1).to_bytes(8, "little") * 2
    data[40:72] = hashlib.sha256(data[72:]).digest()
    with pytest.raises(
        ImageError,
        match=r"^the image's header is not valid: host does not describe the segments that the file holds: "
        r"compile the model again$",
    ):
        Image.from_bytes(bytes(data))


def test_an_image_of_format_1_is_refused_however_short():
    for rest in (b"", bytes(44), bytes(500)):
        with pytest.raises(
            ImageError,
            match=rf"^the image has format version 1, this is version {IMAGE_VERSION}: compile the model "
            rf"again$",
        ):
            Image.from_bytes(b"SYSLIMG\0" + (1).to_bytes(4, "little") + rest)
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
