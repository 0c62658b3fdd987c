"""Images whose checksum is right and whose header is not: each member is refused by its name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from systolith.spec.image import Image, ImageError
from systolith.spec.isa import isa_for
from tests.fuzz.bases import pack, unpack
from tests.fuzz.values import SCALARS
from tests.spec.test_image import TINY, _divided, _image

Edit = Callable[[dict[str, Any]], object]
HUGE = 1 << 64


def edited(edit: Edit, image: Image | None = None) -> bytes:
    header, parts = unpack((image or _image()).to_bytes())
    edit(header)
    return pack(header, parts)


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        Image.from_bytes(data)
    text = str(caught.value)
    assert text.startswith("the image's header is not valid: ") and text.endswith(": compile the model again")
    assert text.isprintable() and len(text) < 400
    return text.removeprefix("the image's header is not valid: ").removesuffix(": compile the model again")


def put(path: str, value: object) -> Edit:
    """Set a member: 'inputs.0.scale'."""
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))

    def edit(header: dict[str, Any]) -> None:
        holder: Any = header
        for part in way:
            holder = holder[part]
        holder[last] = value

    return edit


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("load_count", {}, "load_count must be a whole number from 1 to 268435456, not dict of 0"),
        ("steps.0.count", 1 << 40, "steps[0].count must be a whole number from 1 to"),
        ("steps.0.count", True, "steps[0].count must be a whole number from 1 to 268435456, not True"),
        ("steps.0.count", 3, "steps[0].count is 3, and the program ends before that: it has "),
        (
            "steps.0.count",
            1,
            "steps[0].count is 1, and HALT is not the last of these instructions and only there",
        ),
        ("load_count", 3, "load_count is 3, and HALT is not the last of these instructions and only there"),
        ("steps.0.entry", 17, "steps[0].entry must be a multiple of 16, not 17"),
        ("steps.0.entry", -16, "steps[0].entry must be a whole number from 0 to"),
        ("data_bytes", 1 << 33, "data_bytes must be a whole number from 16 to 4294967295, not 8589934592"),
        ("data_bytes", 100, "data_bytes must be a multiple of 16, not 100"),
        ("data_bytes", 64, "tensors[0] takes 6 bytes from 64 on, and data_bytes is 64"),
        ("states", "V4", "states must be a list of at most"),
        ("states", [7], "states[0] must be an object, not 7"),
        ("tensors.0.offset", -4096, "tensors[0].offset must be a whole number from 0 to"),
        ("tensors.0.offset", 128, "tensors[0] takes 6 bytes from 128 on, and data_bytes is 128"),
        ("tensors.0.offset", 72, "tensors[0].offset must be a multiple of 16, not 72"),
        ("tensors.0.scale", 0.0, "tensors[0].scale must be a number from 1.4013e-45 to 3.40282e+38, not 0.0"),
        ("tensors.0.scale", float("nan"), "tensors[0].scale must be a number from"),
        ("tensors.0.scale", 1e39, "tensors[0].scale must be a number from"),
        ("tensors.0.scale", 10**400, "tensors[0].scale must be a number from"),
        ("tensors.0.scale", -1, "tensors[0].scale must be a number from"),
        (
            "tensors.0.zero_point",
            128,
            "tensors[0].zero_point must be a whole number from -128 to 127, not 128",
        ),
        ("tensors.0.shape", [1, 3, -2], "tensors[0].shape[2] must be a whole number from 1 to"),
        (
            "tensors.0.shape",
            [1 << 30, 1 << 30, 1 << 30],
            "tensors[0] takes 1237940039285380274899124224 bytes",
        ),
        ("tensors.0.shape", [6], "tensors[0].order is no permutation of 1 axes: [0, 2, 1]"),
        ("tensors.0.order", [0, 1, 1], "tensors[0].order is no permutation of 3 axes: [0, 1, 1]"),
        (
            "tensors.0.dtype",
            "int64",
            "tensors[0].dtype must be one of float16, float32, float64, bool, int8, uint8, not 'int64'",
        ),
        (
            "tensors.0.dtype",
            ["float32"],
            "tensors[0].dtype must be one of float16, float32, float64, bool, int8, uint8, not list of 1",
        ),
        ("inputs.0.name", "\x1b[31m", r"inputs[0].name must be a text of at most 4096 characters without"),
        ("inputs.0.name", "\ud800", "inputs[0].name must be a text of at most 4096 characters without"),
        ("inputs.0.name", "x" * 5000, "inputs[0].name must be a text of at most 4096 characters without"),
        ("model", "\x07", "model must be a text of at most 4096 characters without control characters"),
        ("steps.0.owners", [0], "steps[0].owners has 1 entries for 2 instructions"),
        ("steps.0.owners", [0, 1], "steps[0].owners names layer 1 of 1"),
        ("steps.0.owners", [0, -2], "steps[0].owners[1] must be a whole number from -1 to"),
        (
            "steps.0.owners",
            [0, 0.0],
            "steps[0].owners[1] must be a whole number from -1 to 268435456, not 0.0",
        ),
        ("steps.0.cycles", HUGE, "steps[0].cycles must be a whole number from 0 to 9223372036854775807"),
        ("steps.0.layers.0.macs", -1, "steps[0].layers[0].macs must be a whole number from 0 to"),
        ("steps.0.layers.0.skipped_macs", 5, "steps[0].layers[0].skipped_macs is more than its macs"),
        (
            "steps.0.layers.0.limit",
            "luck",
            "steps[0].layers[0].limit must be one of array, weights, memory, vector",
        ),
        ("steps.0.layers.0.nodes", "n", "steps[0].layers[0].nodes must be a list of at most"),
        ("steps.0.layers.0.nodes", ["\n"], "steps[0].layers[0].nodes[0] must be a text of at most"),
        ("steps", {}, "steps must be a list of at most"),
        ("steps", [], "steps is empty"),
        ("steps", [7], "steps[0] must be an object, not 7"),
        ("steps", [{}], "steps[0].where is missing"),
        ("steps.0.where", "moon", "steps[0].where must be one of core, host, not 'moon'"),
        ("steps.0.where", [], "steps[0].where must be one of core, host, not list of 0"),
        ("steps.0.where", "host", "steps[0].model_bytes is missing"),
        ("steps.0.inputs", ["z"], "steps[0].inputs holds 'z', and tensors does not"),
        ("steps.0.inputs", ["x", "x"], "steps[0].inputs holds the name 'x' twice"),
        ("steps.0.inputs", [], "steps[0].outputs holds 'x', which is there before it"),
        ("inputs.0.shape", [1, 2, 3], "inputs and tensors describe 'x' differently"),
        ("inputs.0.dtype", "float64", "inputs and tensors describe 'x' differently"),
        ("inputs.0.shape", None, "inputs holds an input of unknown shape"),
        ("inputs.0.dtype", "sequence", "inputs holds an input that is a sequence"),
        ("inputs.0.dtype", "float8", "inputs[0].dtype must be one of float16, float32,"),
        ("inputs.0.shape", [1, 1 << 31], "inputs[0].shape[1] must be a whole number from 0 to"),
        ("outputs.0.name", "z", "outputs holds 'z', which no step gives"),
        ("arch", None, "arch must be an object, not None"),
        ("arch.rows", 10**400, "rows must be a power of two from 2 to 32, not a number of 1329 bits"),
        ("arch.name", "\x1b[2J", "name must have 1 to 200 characters, none of them a control character, not"),
        ("extra", 1, "'extra' is unknown"),
    ],
)
def test_a_member_that_is_not_right(path: str, value: object, said: str) -> None:
    assert refusal(edited(put(path, value))).startswith(said)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("steps.0.nodes.0.elements", -1, "steps[0].nodes[0].elements must be a whole number from 0 to"),
        ("steps.0.nodes.0.reason", "\x1b]0;x\x07", "steps[0].nodes[0].reason must be a text of at"),
        ("steps.0.nodes.0.segment", "before", "steps[0].nodes[0].'segment' is unknown"),
        ("steps.0.model_bytes", 0, "steps[0].model_bytes must be a whole number from 1 to"),
        ("steps.0.model_bytes", 6, "steps describes 10 bytes of models for the host, and the file holds 9"),
        ("steps.0.inputs", ["y"], "steps[0].inputs holds 'y', which nothing before it gives"),
        ("steps.0.outputs", ["x"], "steps[0].outputs holds 'x', which is there before it"),
        ("steps.1.outputs", ["a"], "steps[1].outputs holds 'a', and tensors does not"),
        ("steps.2.inputs", ["raw", "b"], "steps[2].inputs holds 'b', which nothing before it gives"),
        ("steps.2.outputs", ["raw"], "steps[2].outputs holds 'raw', which is there before it"),
        ("steps.3.inputs", ["raw", "y"], "steps[3].inputs holds 'y', which nothing before it gives"),
        ("steps.3.outputs", ["middle"], None),
        ("steps.3.count", 3, "steps[3].count is 3, and the program ends before that: it has"),
        ("steps.3.owners", [0, 1], "steps[3].owners names layer 1 of 1"),
        ("steps.3.entry", 0, "steps[3].count is 2, and HALT is not the last of these instructions"),
        ("outputs", [], None),
    ],
)
def test_a_plan_that_is_not_right(path: str, value: object, said: str | None) -> None:
    data = edited(put(path, value), _divided())
    if path == "steps.3.outputs":
        assert refusal(data) == "outputs holds 'y', which no step gives"
    elif said is None:
        Image.from_bytes(data)
    else:
        assert refusal(data).startswith(said)


def test_steps_in_another_order_are_refused() -> None:
    def moved(header: dict[str, Any]) -> None:
        header["steps"].insert(1, header["steps"].pop())

    assert refusal(edited(moved, _divided())) == (
        "steps[1].inputs holds 'raw', which nothing before it gives"
    )


def test_names_are_unique_and_states_lie_in_data() -> None:
    def twice(header: dict[str, Any]) -> None:
        header["tensors"].append({**header["tensors"][0], "offset": 80})

    def state(**members: object) -> Edit:
        return put("states", [{"name": "s", "offset": 0, "initial": "00ff", **members}])

    assert refusal(edited(twice)) == "tensors holds the name 'x' twice"
    Image.from_bytes(edited(state()))
    for initial in ("", "0", "0g", "00 ff", "００"):
        assert refusal(edited(state(initial=initial))).startswith("states[0].initial ")
    assert refusal(edited(state(offset=128))) == "states[0] takes 2 bytes from 128 on, and data_bytes is 128"
    assert refusal(edited(state(offset=8))) == "states[0].offset must be a multiple of 16, not 8"


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[1]", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff\xfe", b"{", b'{"a":NaN'],
)
def test_a_header_that_is_no_object(body: bytes) -> None:
    refusal(pack(body, [b"", b""]))


def test_every_member_refuses_every_value_of_a_wrong_kind() -> None:
    """No value anywhere ends in another exception; what is accepted, gives an image that can be written."""
    whole, parts = unpack(_divided().to_bytes())
    places = []

    def walk(tree: Any, way: tuple[Any, ...]) -> None:
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            places.append((*way, key))
            if isinstance(tree[key], dict | list):
                walk(tree[key], (*way, key))

    walk(whole, ())
    accepted = 0
    for way in places:
        for value in SCALARS:
            header = copy.deepcopy(whole)
            holder = header
            for key in way[:-1]:
                holder = holder[key]
            holder[way[-1]] = value
            try:
                image = Image.from_bytes(pack(header, parts))
            except ImageError as error:
                assert str(error).isprintable(), (way, value)
            else:
                accepted += 1
                image.to_bytes()
    assert len(places) > 80 and accepted < len(places) * len(SCALARS) / 3


def test_an_image_that_would_be_refused_is_not_written() -> None:
    import dataclasses

    image = _image()
    wrong = dataclasses.replace(image.tensors[0], name="two\nlines")
    with pytest.raises(ImageError, match=r"tensors\[0\].name must be a text .*, not 'two\\nlines': compile"):
        dataclasses.replace(image, tensors=(wrong,)).to_bytes()


def test_a_stream_needs_its_halt() -> None:
    isa = isa_for(TINY)
    nop, halt = (isa.encode(isa.make(mnemonic)) for mnemonic in ("NOP", "HALT"))
    header, _ = unpack(_image().to_bytes())
    for program in (halt + nop + nop, halt + halt + halt, nop + nop + halt):
        assert "HALT is not the last" in refusal(pack(header, [program, b""]))
    Image.from_bytes(pack(header, [halt + nop + halt, b""]))


def test_a_file_that_claims_to_be_long_costs_what_it_has(tmp_path) -> None:
    data = bytearray(_image().to_bytes())
    for claimed, said in (
        (1 << 30, "is truncated or has trailing bytes"),
        (1 << 60, "more than the 2147"),
    ):
        data[16:24] = claimed.to_bytes(8, "little")
        (tmp_path / "m.sysl").write_bytes(data)
        with pytest.raises(ImageError, match=said):
            Image.load(tmp_path / "m.sysl")
    with pytest.raises(
        ImageError,
        match=r"^'/dev/zero': this is not a Systolith image: give a file that ",
    ):
        Image.load("/dev/zero")
    assert json.loads(json.dumps(unpack(_image().to_bytes())[0]))
