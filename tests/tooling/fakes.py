"""Programs that say what a test wants, in a folder that goes first on PATH."""

import os
from pathlib import Path

import pytest

__all__ = ["SAID", "Fakes"]

#: What each program prints about its version.
SAID = {
    "yosys": "Yosys {} (git sha1 7ce5011c24b)",
    "nextpnr-ecp5": '"nextpnr-ecp5" -- Next Generation Place and Route (Version {}-1)',
    "nextpnr-ice40": '"nextpnr-ice40" -- Next Generation Place and Route (Version nextpnr-{}-13-gabcdef)',
    "nextpnr-himbaechel": '"nextpnr-himbaechel" -- Next Generation Place and Route (Version {})',
    "verilator": "Verilator {} 2023-01-22 rev (Debian {}-2)",
    "g++": "g++ (Debian {}.0-14) {}.0",
}


class Fakes:
    """Programs in a folder that goes first on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        for name in ("SYSTOLITH_TOOLS", "CXX"):
            monkeypatch.delenv(name, raising=False)

    def program(self, name: str, script: str) -> Path:
        """A shell script under a name."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def version(self, name: str, version: str, otherwise: str = "exit 1") -> Path:
        """A program that states a version, and does something else where it is asked anything else."""
        said = SAID[name].replace("{}", version)
        return self.program(name, f"case \"$1\" in -V|--version) echo '{said}'; exit 0;; esac\n{otherwise}")
