"""The CSR map: addresses, constants and the digest."""

import dataclasses

from systolith.spec.arch import PRESETS
from systolith.spec.isa import Engine
from systolith.spec.regs import CSR_BYTES, CSRS, MAGIC, Access, config_values, core_digest


def test_map_is_dense_and_fits():
    assert [csr.address for csr in CSRS.values()] == [4 * i for i in range(len(CSRS))]
    assert 4 * len(CSRS) <= CSR_BYTES and CSR_BYTES & (CSR_BYTES - 1) == 0
    assert MAGIC.to_bytes(4, "little") == b"SYSL"
    for engine in Engine:
        assert {f"{engine.name}_{kind}" for kind in ("BUSY", "WAIT", "STALL")} <= set(CSRS)


def test_constants_are_read_only_words():
    for arch in PRESETS.values():
        values = config_values(arch)
        assert all(
            CSRS[name].access is Access.READ and 0 <= value < 1 << 32 for name, value in values.items()
        )
        assert b"".join(values[f"DIGEST{i}"].to_bytes(4, "little") for i in range(4)) == core_digest(arch)
        assert values["ROWS"] == arch.rows and values["LANES"] == arch.lanes


def test_digest_follows_hardware_not_name():
    tiny = PRESETS["tiny"]
    assert core_digest(dataclasses.replace(tiny, name="x")) == core_digest(tiny)
    assert core_digest(dataclasses.replace(tiny, queue_depth=8)) != core_digest(tiny)
