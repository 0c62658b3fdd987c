"""Entries of the parameter SRAM, packed and unpacked as `spec.numerics.PARAM_FIELDS` lays them out."""

from __future__ import annotations

import numpy as np

from systolith.spec.numerics import PARAM_FIELDS

__all__ = ["pack_params", "unpack_params"]


def pack_params(cols: int, **fields: np.ndarray) -> bytes:
    """One entry of `cols` channels; each field gives up to `cols` values, the rest is zero."""
    words = np.zeros(cols, np.uint64)
    position = 0
    for name, bits, _ in PARAM_FIELDS:
        if name in fields:
            values = np.asarray(fields[name]).astype(np.int64).astype(np.uint64) & np.uint64((1 << bits) - 1)
            words[: len(values)] |= values << np.uint64(position)
        position += bits
    return words.astype("<u8").tobytes()


def unpack_params(entry: np.ndarray) -> dict[str, np.ndarray]:
    """Fields of an entry (uint8 bytes), each int64 with one value per channel."""
    words = entry.view("<u8")
    fields, position = {}, 0
    for name, bits, signed in PARAM_FIELDS:
        raw = ((words >> np.uint64(position)) & np.uint64((1 << bits) - 1)).astype(np.int64)
        fields[name] = raw - ((raw >> (bits - 1)) << bits) if signed else raw
        position += bits
    return fields
