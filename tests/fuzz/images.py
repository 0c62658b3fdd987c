"""Cases of images: members of the header, programs, steps and cores changed, the checksum right."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from systolith.spec.arch import ArchConfig, ArchError
from systolith.spec.image import Image
from systolith.spec.isa import IsaError, isa_for
from systolith.spec.regs import core_digest
from tests.fuzz.bases import Base, bases, pack, unpack
from tests.fuzz.kit import Case
from tests.fuzz.values import NAMES, SCALARS, edit_bytes, edit_tree
from tests.host.test_runner import RELU, endless, huge, with_outside

__all__ = ["QUICK", "cases"]

QUICK = 300
_MODELS = (RELU, endless(), huge(True), huge(False), with_outside("attribute"), b"x", b"")


def cases(rng: random.Random) -> Iterator[Case]:
    """Images with one to three edits, listed or run on the machine."""
    while True:
        base = rng.choice(bases())
        data, what = _edited(rng, base)
        files = {"m.sysl": data, "x.npz": base.inputs}
        if rng.random() < 0.25:
            argv = ("disasm", "m.sysl", "--stream", rng.choice(["all", "load", "run"]))
        else:
            argv = ("run", "m.sysl", "--inputs", "x.npz", "--on", "machine", "--outputs", "y.npz")
        yield Case(name=what, files=files, argv=argv)


def _edited(rng: random.Random, base: Base) -> tuple[bytes, str]:
    whole = base.file
    if rng.random() < 0.05:
        return edit_bytes(rng, whole), "bytes, checksum wrong"
    header, parts = unpack(whole)
    header = copy.deepcopy(header)
    edits = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        edit = rng.choice(
            [_header] * 3 + [_tensor] * 4 + [_words] * 4 + [_fresh] * 2 + [_bits, _arch, _step, _text]
        )
        edits.append(edit.__name__.strip("_"))
        made = edit(rng, base, header, parts)
        if made is not None:
            # Text instead of a header: no other edit can follow.
            return pack(made, parts), ", ".join(edits)
    return pack(header, parts), ", ".join(edits)


def _header(rng: random.Random, base: Base, header: dict[str, Any], parts: list[bytes]) -> None:
    edit_tree(rng, header)


def _tensor(rng: random.Random, base: Base, header: dict[str, Any], parts: list[bytes]) -> None:
    """A tensor, state or port that is nearly right."""
    lists = [header.get(key) for key in ("inputs", "outputs", "tensors", "states", "steps")]
    lists += [step.get(key) for step in _steps(header) for key in ("layers", "nodes")]
    items = [
        item for values in lists if isinstance(values, list) for item in values if isinstance(item, dict)
    ]
    if items:
        item = rng.choice(items)
        if not item:
            return
        key = rng.choice(sorted(item))
        if key == "where" and rng.random() < 0.5:
            return
        if key == "order" and isinstance(item[key], list):
            rng.shuffle(item[key])
        elif key in ("name", "tensor", "op", "reason"):
            item[key] = rng.choice(NAMES)
        elif key == "offset" and isinstance(item[key], int):
            item[key] = rng.choice([-16, 0, 8, 16, 4096, (1 << 32) - 16, item[key] + 16])
        elif key == "dtype":
            item[key] = rng.choice(["int8", "uint8", "float32", "float64", "object", "O", "<f4", ""])
        else:
            item[key] = rng.choice(SCALARS)


def _words(rng: random.Random, base: Base, header: dict[str, Any], parts: list[bytes]) -> None:
    """Operands of an instruction at or near their limits; or two instructions changed round."""
    isa, image = isa_for(base.image.arch), base.image
    size, program = isa.word_bytes, bytearray(parts[0])
    entry, count = rng.choice(_streams(image))
    at = entry + rng.randrange(count) * size
    if rng.random() < 0.2:
        other = entry + rng.randrange(count) * size
        program[at : at + size], program[other : other + size] = (
            program[other : other + size],
            program[at : at + size],
        )
    else:
        try:
            instr = isa.decode(bytes(program[at : at + size]))
        except IsaError:
            return
        operands = dict(instr.operands)
        for field in rng.sample(isa.fields(instr.mnemonic)[1:], k=rng.choice([1, 1, 2])):
            value = operands[field.name]
            near = [field.min, field.max, value + 1, value - 1, rng.randint(field.min, field.max)]
            operands[field.name] = min(max(rng.choice(near), field.min), field.max)
        try:
            program[at : at + size] = isa.encode(isa.make(instr.mnemonic, **operands))
        except IsaError:
            return
    parts[0] = bytes(program)


def _fresh(rng: random.Random, base: Base, header: dict[str, Any], parts: list[bytes]) -> None:
    """Any instruction of the core in the place of another, HALT excepted; most of its operands are small."""
    isa, image = isa_for(base.image.arch), base.image
    entry, count = rng.choice(_streams(image))
    if count < 2:
        return
    fmt = rng.choice(isa.formats)
    operands = {
        field.name: rng.choice(
            [field.min, rng.randint(field.min, min(field.max, field.min + rng.choice([2, 9, 99])))]
        )
        for field in fmt.fields
    }
    try:
        word = isa.encode(isa.make(fmt.mnemonic, **operands))
    except IsaError:
        return
    at = entry + rng.randrange(count - 1) * isa.word_bytes
    parts[0] = parts[0][:at] + word + parts[0][at + len(word) :]


def _bits(rng: random.Random, base: Base, header: dict[str, Any], parts: list[bytes]) -> None:
    """Bits of constants and instructions."""
    program = bytearray(parts[0])
    for _ in range(rng.choice([1, 8])):
        program[rng.randrange(len(program))] ^= 1 << rng.randrange(8)
    parts[0] = bytes(program)


def _arch(rng: random.Random, base: Base, header: dict[str, Any], parts: list[bytes]) -> None:
    """Another core, with its right digest where there can be such a core."""
    arch = header.get("arch")
    if not isinstance(arch, dict) or not arch:
        return
    key = rng.choice(sorted(arch))
    arch[key] = rng.choice([*SCALARS, *(1 << n for n in range(27))] if key != "name" else NAMES)
    try:
        header["digest"] = core_digest(ArchConfig.from_dict(arch)).hex()
    except ArchError:
        return


def _step(rng: random.Random, base: Base, header: dict[str, Any], parts: list[bytes]) -> None:
    """Steps in another order, with other names between them, or with other models, or damaged ones."""
    steps = _steps(header)
    what = rng.choice(["order", "names", "drop", "twice", "model"])
    if what == "model":
        data = edit_bytes(rng, parts[1]) if rng.random() < 0.5 and parts[1] else rng.choice(_MODELS)
        hosts = [step for step in steps if step.get("where") == "host"]
        if hosts and rng.random() < 0.8:
            for step in hosts:
                step["model_bytes"] = 0
            # All but one keep a byte, so that the sum is right.
            for step in hosts[1:]:
                step["model_bytes"] = 1
            hosts[0]["model_bytes"] = max(1, len(data) - len(hosts) + 1)
        parts[1] = data
    elif steps and isinstance(header.get("steps"), list):
        if what == "order":
            rng.shuffle(header["steps"])
        elif what == "drop":
            header["steps"].pop(rng.randrange(len(header["steps"])))
        elif what == "twice":
            header["steps"].append(copy.deepcopy(rng.choice(header["steps"])))
        else:
            step, key = rng.choice(steps), rng.choice(["inputs", "outputs"])
            names = [name for other in steps for name in (other.get("outputs") or [])]
            step[key] = rng.sample(names, k=min(len(names), rng.choice([0, 1, 2])))


def _steps(header: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a header that are still objects."""
    steps = header.get("steps")
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _streams(image: Image) -> list[tuple[int, int]]:
    """Entry and count of each stream."""
    return [(image.load_entry, image.load_count), *((step.entry, step.count) for step in image.cores)]


def _text(rng: random.Random, base: Base, header: dict[str, Any], parts: list[bytes]) -> bytes:
    """A header that is no JSON, or JSON that no reader expects."""
    text = json.dumps(header).encode()
    return rng.choice(
        [
            edit_bytes(rng, text),
            b"[" * 100_000,
            b"{" + b'"a":{' * 5000,
            text.replace(b":", b":" + b"9" * 5000, 1),
            text[:-1] + b"," + text[1:],
            text.decode().encode("utf-16"),
            b"null",
            b"\xff" + text,
        ]
    )
