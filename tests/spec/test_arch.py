"""ArchConfig: validation, TOML and derived geometry."""

import dataclasses

import pytest

from systolith.spec.arch import PRESETS, ArchConfig, ArchError, load_arch


@pytest.mark.parametrize("arch", PRESETS.values(), ids=PRESETS)
def test_toml_round_trip_and_tile_order(arch, tmp_path):
    assert ArchConfig.from_toml(arch.to_toml()) == arch
    path = tmp_path / "a.toml"
    path.write_text(arch.to_toml(), encoding="utf-8")
    assert load_arch(path) == arch and load_arch(arch) is arch and load_arch(arch.name) == arch
    # The memory order of a tile is a permutation of its bytes.
    assert sorted(arch.weight_offset(r, c) for r in range(arch.rows) for c in range(arch.cols)) == list(
        range(arch.tile_bytes)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 3}, r"^rows must be a power of two from 2 to 32, not 3$"),
        ({"rows": 64}, r"^rows must be a power of two from 2 to 32, not 64$"),
        ({"rows": True}, r"^rows must be of type int, not True$"),
        ({"lanes": 4}, r"^lanes must be a power of two from 1 to 2, not 4$"),
        ({"addr_bits": 65}, r"^addr_bits must be from 32 to 64, not 65$"),
        ({"weight_rows_per_cycle": 4}, r"^weight_rows_per_cycle must be a power of two from 1 to 2, not 4$"),
    ],
)
def test_bad_values(change, message):
    with pytest.raises(ArchError, match=message):
        dataclasses.replace(PRESETS["tiny"], **change)


def test_weights_must_hold_two_tiles():
    with pytest.raises(
        ArchError, match=r"^weight_bytes must hold at least two tiles of 16 x 32 bytes, not 512$"
    ):
        dataclasses.replace(PRESETS["array16"], cols=32, weight_bytes=512)


def test_bad_text(tmp_path):
    with pytest.raises(ArchError, match=r"^not valid TOML: "):
        ArchConfig.from_toml("rows = ")
    with pytest.raises(ArchError, match=r"^unknown parameter 'colour'; known are name, rows"):
        ArchConfig.from_dict({**PRESETS["tiny"].to_dict(), "colour": 1})
    with pytest.raises(ArchError, match=r"^parameter 'rows' is missing$"):
        ArchConfig.from_dict({"name": "x"})
    with pytest.raises(
        ArchError, match=rf"^architecture 'nowhere' is neither a preset \({', '.join(PRESETS)}\) nor"
    ):
        load_arch("nowhere")
