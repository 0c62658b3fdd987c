"""ArchConfig: every parameter of one core, validated, with presets and TOML.

Standard library only. Everything else (operand widths, memory geometry, CSR contents) derives from this
value.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolith.spec.errors import SystolithError
from systolith.spec.numerics import PARAM_BYTES, TABLE_SIZE
from systolith.spec.printable import excerpt, is_name

__all__ = ["COMPACT", "PRESETS", "ArchConfig", "ArchError", "load_arch"]


class ArchError(SystolithError, ValueError):
    """A parameter that no core can be built with."""


_NAME_CHARACTERS = 200

#: What a compact core has no choice in.
COMPACT: dict[str, int | bool] = {
    "rows": 4,
    "cols": 4,
    "bus_bits": 32,
    "act_blocks": 1,
    "weight_rows_per_cycle": 4,
    "table_slots": 0,
    "lanes": 1,
    "queue_depth": 2,
    "depthwise": False,
}


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchConfig:
    """The parameters of one core.

    Parameters
    ----------
    name : str                  used in reports only
    rows : int                  R, rows of the array (contraction): power of two, 2 to 32
    cols : int                  C, columns of the array (output channels): power of two, 2 to 32
    bus_bits : int              data width of the AXI4 master: 32, 64 or 128
    addr_bits : int             address width of the AXI4 master: 32 to 64; 12 to 32 of a compact core
    act_bytes : int             activation SRAM
    act_blocks : int            independent blocks of the activation SRAM, each with one read and one write
                 port
    weight_bytes : int          weight SRAM
    weight_rows_per_cycle : int rows of a weight tile that the weight SRAM delivers per cycle, 1 to R
    acc_depth : int             accumulator SRAM entries, each C x int32
    param_rows : int            entries of the parameter SRAM, each C x (bias, mult, shift)
    table_slots : int           256-entry tables held by the output stage and by the vector unit
    lanes : int                 elements per cycle of the output stage and of the vector unit, at most C
    queue_depth : int           instructions queued in front of each engine
    depthwise : bool            the array has the depthwise (FIR) mode
    compact : bool              the small core of `hw.compact`: 4 x 4 on a 32-bit bus, one instruction per
              engine at a time, no vector unit,
                                no tables, no depthwise mode, no counters but CYCLES; see `COMPACT`

    Raises
    ------
    ArchError   If a value is out of range, or two values do not go together.
    """

    name: str
    rows: int
    cols: int
    bus_bits: int = 128
    addr_bits: int = 32
    act_bytes: int
    act_blocks: int = 4
    weight_bytes: int
    weight_rows_per_cycle: int
    acc_depth: int
    param_rows: int
    table_slots: int = 8
    lanes: int
    queue_depth: int = 4
    depthwise: bool = True
    compact: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            expected = {"str": str, "int": int, "bool": bool}[str(field.type)]
            if type(value) is not expected:
                raise ArchError(f"{field.name} must be of type {expected.__name__}, not {excerpt(value)}")
        if not is_name(self.name, _NAME_CHARACTERS):
            raise ArchError(
                f"name must have 1 to {_NAME_CHARACTERS} characters, none of them a control character, not "
                f"{excerpt(self.name)}"
            )
        for name, low, high in (
            ("rows", 2, 32),
            ("cols", 2, 32),
            ("bus_bits", 32, 128),
            ("act_bytes", 1 << 10, 1 << 24),
            ("act_blocks", 1, 8),
            ("weight_bytes", 1 << 8, 1 << 26),
            ("weight_rows_per_cycle", 1, self.rows),
            ("acc_depth", 8, 1 << 14),
            ("param_rows", 2, 1 << 16),
            ("table_slots", 2, 256),
            ("lanes", 1, self.cols),
            ("queue_depth", 2, 32),
        ):
            value = getattr(self, name)
            if self.compact and name in COMPACT:
                continue
            if not low <= value <= high or not _is_power_of_two(value):
                raise ArchError(f"{name} must be a power of two from {low} to {high}, not {excerpt(value)}")
        low, high = (12, 32) if self.compact else (32, 64)
        if not low <= self.addr_bits <= high:
            raise ArchError(f"addr_bits must be from {low} to {high}, not {excerpt(self.addr_bits)}")
        if self.compact:
            for name, value in COMPACT.items():
                if getattr(self, name) != value:
                    raise ArchError(
                        f"{name} must be {value!r} in a compact core, not {excerpt(getattr(self, name))}"
                    )
        if self.act_bytes < self.act_blocks * self.act_width * 2:
            raise ArchError(
                f"act_bytes must give each of the {self.act_blocks} act_blocks at least two lines of "
                f"{self.act_width} bytes, not {self.act_bytes!r}"
            )
        if self.weight_bytes < 2 * self.rows * self.cols:
            raise ArchError(
                f"weight_bytes must hold at least two tiles of {self.rows} x {self.cols} bytes, "
                f"not {self.weight_bytes!r}"
            )

    # -- derived geometry
    # -------------------------------------------------------------------------------------------
    @property
    def bus_bytes(self) -> int:
        """Bytes in one beat of the AXI4 master."""
        return self.bus_bits // 8

    @property
    def act_width(self) -> int:
        """Bytes in one line of the activation SRAM (its number of byte-wide banks)."""
        return max(self.rows, self.cols, self.bus_bytes)

    @property
    def act_block_bytes(self) -> int:
        """Bytes in one block of the activation SRAM; blocks are contiguous address ranges."""
        return self.act_bytes // self.act_blocks

    @property
    def tile_bytes(self) -> int:
        """Bytes of one weight tile, R x C."""
        return self.rows * self.cols

    @property
    def weight_tiles(self) -> int:
        """Weight tiles that the weight SRAM holds."""
        return self.weight_bytes // self.tile_bytes

    @property
    def weight_load_cycles(self) -> int:
        """Cycles in which one tile is read from the weight SRAM."""
        return self.rows // self.weight_rows_per_cycle

    @property
    def weight_line_bytes(self) -> int:
        """Bytes in one line of the weight SRAM, over all its banks."""
        return self.weight_rows_per_cycle * self.cols

    @property
    def param_line_bytes(self) -> int:
        """Bytes in one entry of the parameter SRAM (`PARAM_BYTES` per channel)."""
        return self.cols * PARAM_BYTES

    @property
    def chunks(self) -> int:
        """Groups of `lanes` channels in which the output stage takes an entry's C columns."""
        return self.cols // self.lanes

    @property
    def param_chunk_bytes(self) -> int:
        """Bytes of one chunk of an entry, a line of the parameter SRAM."""
        return self.lanes * PARAM_BYTES

    @property
    def param_bytes(self) -> int:
        """Bytes of the parameter SRAM."""
        return self.param_rows * self.param_line_bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of the table SRAM as the program sees it (each lane holds a copy)."""
        return self.table_slots * TABLE_SIZE

    def weight_offset(self, row: int, col: int) -> int:
        """Byte offset of W[row][col] inside a tile, in the order of the weight SRAM.

        Bank b = row // G holds rows b*G to b*G + G-1 (G = `weight_load_cycles`), one per line, so that the
        rows a cycle delivers come from different banks and each bank's address is bank 0's, delayed by b*G
        cycles.
        """
        bank, line = divmod(row, self.weight_load_cycles)
        return line * self.weight_line_bytes + bank * self.cols + col

    @property
    def psum_bits(self) -> int:
        """Width of the partial sums inside the array: products of two int8, summed over the rows."""
        return 16 + (self.rows - 1).bit_length()

    @property
    def macs_per_cycle(self) -> int:
        """Peak multiply-accumulates per cycle."""
        return self.rows * self.cols

    # -- text
    # -------------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, int | str | bool]:
        """All parameters by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArchConfig:
        """Build from a mapping; unknown and missing names are refused.

        Raises
        ------
        ArchError   Naming the parameter.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ArchError(f"unknown parameter {excerpt(key)}; known are {', '.join(known)}")
        for key, field in known.items():
            if key not in values and field.default is dataclasses.MISSING:
                raise ArchError(f"parameter {key!r} is missing")
        return cls(**values)

    def to_toml(self) -> str:
        """The parameters as TOML text."""
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in self.to_dict().items())

    @classmethod
    def from_toml(cls, text: str) -> ArchConfig:
        """Parse TOML text.

        Raises
        ------
        ArchError   If it is not TOML, or a parameter is wrong.
        """
        try:
            values = tomllib.loads(text)
        # Nesting deeper than the parser goes; numbers longer than Python converts are a ValueError.
        except (ValueError, RecursionError) as error:
            raise ArchError(f"not valid TOML: {error}") from error
        return cls.from_dict(values)

    def digest(self) -> bytes:
        """16 bytes that identify the hardware's parameters (the name does not count)."""
        values = {key: value for key, value in self.to_dict().items() if key != "name"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()[:16]


#: Named configurations. `tiny` is for proofs and fast tests.
PRESETS: dict[str, ArchConfig] = {
    arch.name: arch
    for arch in (
        ArchConfig(
            name="tiny",
            rows=2,
            cols=2,
            act_bytes=1 << 13,
            act_blocks=2,
            weight_bytes=1 << 12,
            weight_rows_per_cycle=1,
            acc_depth=32,
            param_rows=64,
            table_slots=2,
            lanes=1,
        ),
        ArchConfig(
            name="array8",
            rows=8,
            cols=8,
            act_bytes=1 << 18,
            weight_bytes=1 << 19,
            weight_rows_per_cycle=8,
            acc_depth=1024,
            param_rows=1024,
            lanes=8,
        ),
        ArchConfig(
            name="array16",
            rows=16,
            cols=16,
            act_bytes=1 << 18,
            weight_bytes=1 << 19,
            weight_rows_per_cycle=16,
            acc_depth=1024,
            param_rows=512,
            lanes=16,
        ),
        ArchConfig(
            name="icebreaker",
            compact=True,
            rows=4,
            cols=4,
            bus_bits=32,
            addr_bits=16,
            act_bytes=1 << 15,
            act_blocks=1,
            weight_bytes=1 << 12,
            weight_rows_per_cycle=4,
            acc_depth=256,
            param_rows=32,
            table_slots=0,
            lanes=1,
            queue_depth=2,
            depthwise=False,
        ),
        ArchConfig(
            name="arty_a7_100t",
            rows=8,
            cols=16,
            bus_bits=32,
            act_bytes=1 << 16,
            act_blocks=2,
            weight_bytes=1 << 17,
            weight_rows_per_cycle=8,
            acc_depth=512,
            param_rows=256,
            lanes=8,
        ),
        ArchConfig(
            name="tang_nano_20k",
            compact=True,
            rows=4,
            cols=4,
            bus_bits=32,
            addr_bits=23,
            act_bytes=1 << 15,
            act_blocks=1,
            weight_bytes=1 << 15,
            weight_rows_per_cycle=4,
            acc_depth=512,
            param_rows=128,
            table_slots=0,
            lanes=1,
            queue_depth=2,
            depthwise=False,
        ),
        ArchConfig(
            name="ulx3s_85f",
            rows=8,
            cols=16,
            bus_bits=32,
            act_bytes=1 << 17,
            act_blocks=2,
            weight_bytes=1 << 17,
            weight_rows_per_cycle=1,
            acc_depth=512,
            param_rows=256,
            lanes=4,
        ),
    )
}


def load_arch(name_or_path: str | Path | ArchConfig) -> ArchConfig:
    """A preset by name, a TOML file by path, or an `ArchConfig` as it is.

    Raises
    ------
    ArchError   If it is neither a preset nor a readable, valid file.
    """
    if isinstance(name_or_path, ArchConfig):
        return name_or_path
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise ArchError(
            f"architecture {str(name_or_path)!r} is neither a preset ({', '.join(PRESETS)}) nor a TOML file"
        )
    try:
        return ArchConfig.from_toml(path.read_text(encoding="utf-8"))
    except (ArchError, ValueError, OSError) as error:
        raise ArchError(f"architecture file {str(path)!r}: {error}") from error
