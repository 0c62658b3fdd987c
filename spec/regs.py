"""The CSR map: one table of registers, from which hardware, drivers and the documentation page derive.
Standard library only."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass

from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, isa_for

__all__ = [
    "CSR",
    "CSRS",
    "CSR_BYTES",
    "DEFAULT_WATCHDOG",
    "MAGIC",
    "VERSION",
    "WATCHDOG_BIT",
    "Access",
    "Control",
    "ErrorCode",
    "Status",
    "config_values",
    "core_digest",
]

#: First CSR of every core: "SYSL" read as a little-endian word.
MAGIC = int.from_bytes(b"SYSL", "little")
#: Version of the CSR map and of the core's behaviour; a host refuses another major (upper 16 bits).
VERSION = 0x0001_0000
#: Reset value of WATCHDOG: cycles without progress before the core stops.
DEFAULT_WATCHDOG = 1 << 20
#: The one bit of WATCHDOG that a compact core has: 0 disables, 1 stands for that many cycles.
WATCHDOG_BIT = 20


class Access(enum.Enum):
    """What a host may do with a register."""

    #: Constant or status.
    READ = "RO"
    #: Set by the host while the core is idle; writes while it runs are ignored.
    WRITE = "RW"
    #: Writing 1s triggers actions; reads as zero.
    TRIGGER = "WO"


class Control(enum.IntFlag):
    """Bits of CONTROL."""

    #: Begin at ENTRY. Ignored unless IDLE, DONE or ERROR without DRAINING; clears DONE, ERROR and the
    #: counters.
    START = 1
    #: Stop: no new bus transaction starts, those under way are finished, then every engine is reset and the
    #: state is IDLE.
    RESET = 2


class Status(enum.IntFlag):
    """Bits of STATUS."""

    #: A stream is executing.
    RUNNING = 1
    #: The last stream ended with HALT.
    DONE = 2
    #: The last stream was stopped; see ERROR_CODE and ERROR_ADDR.
    ERROR = 4
    #: Stopping: bus transactions are still under way. The interface accepts RESET, not START.
    DRAINING = 8


class ErrorCode(enum.IntEnum):
    """Why the core stopped."""

    NONE = 0
    #: The opcode, an enumerated operand, or a reserved bit of an instruction is not one of the table's.
    ILLEGAL_INSTRUCTION = 1
    #: An on-chip address lies outside its SRAM, or is not aligned where the table asks for it.
    OPERAND_RANGE = 2
    #: A transfer or a fetch would leave its region, or STORE names the PROGRAM region.
    REGION = 3
    #: The bus answered a read with SLVERR or DECERR.
    BUS_READ = 4
    #: The bus answered a write with SLVERR or DECERR.
    BUS_WRITE = 5
    #: No engine and no bus beat moved for WATCHDOG cycles.
    WATCHDOG = 6
    #: An engine was given more tokens than a semaphore counts.
    SEMAPHORE = 7


@dataclass(frozen=True, slots=True)
class CSR:
    """One 32-bit register."""

    name: str
    address: int
    access: Access
    doc: str


def _build() -> tuple[CSR, ...]:
    read, write = Access.READ, Access.WRITE
    rows: list[tuple[str, Access, str]] = [
        ("MAGIC", read, f"0x{MAGIC:08x}, the letters SYSL."),
        ("VERSION", read, "Major (upper half) and minor version of this map."),
        *(
            (
                f"DIGEST{i}",
                read,
                f"Word {i} of the digest of architecture and instruction set, little endian.",
            )
            for i in range(4)
        ),
        *((name, read, f"ArchConfig.{name.lower()}.") for name in _CONFIG),
        ("CONTROL", Access.TRIGGER, "START = 1, RESET = 2."),
        ("STATUS", read, "RUNNING = 1, DONE = 2, ERROR = 4, DRAINING = 8."),
        ("ERROR_CODE", read, "An ErrorCode; the first error wins."),
        ("ERROR_ADDR", read, "Offset in the PROGRAM region of the instruction at fault."),
        (
            "PROGRAM_LO",
            write,
            "Base of the PROGRAM region, low word; a multiple of the bus width (compact cores: of 16, as "
            "DATA_LO).",
        ),
        ("PROGRAM_HI", write, "Base of the PROGRAM region, high word."),
        ("PROGRAM_SIZE", write, "Bytes in the PROGRAM region."),
        ("DATA_LO", write, "Base of the DATA region, low word; a multiple of the bus width."),
        ("DATA_HI", write, "Base of the DATA region, high word."),
        ("DATA_SIZE", write, "Bytes in the DATA region."),
        ("ENTRY", write, "Offset in the PROGRAM region of the first instruction; a multiple of 16."),
        (
            "WATCHDOG",
            write,
            f"Cycles without progress before the core stops; 0 disables. A compact core keeps bit "
            f"{WATCHDOG_BIT} alone.",
        ),
        ("CYCLES_LO", read, "Cycles from START to DONE or ERROR, low word."),
        (
            "CYCLES_HI",
            read,
            "The same, high word. A compact core reads it, and all counters that follow, as zero.",
        ),
        ("INSTRUCTIONS", read, "Instructions completed, HALT and NOP included."),
        ("READ_BEATS", read, "Data beats read from the bus, instructions included."),
        ("WRITE_BEATS", read, "Data beats written to the bus."),
    ]
    for engine in Engine:
        rows += [
            (f"{engine.name}_BUSY", read, f"Cycles in which {engine.name} executed an instruction."),
            (
                f"{engine.name}_WAIT",
                read,
                f"Cycles in which {engine.name} had an instruction that waited for a token.",
            ),
            (
                f"{engine.name}_STALL",
                read,
                f"Cycles in which {engine.name} executed but was held up by an SRAM port, the bus, or its "
                f"neighbour.",
            ),
        ]
    return tuple(CSR(name, 4 * i, access, doc) for i, (name, access, doc) in enumerate(rows))


#: CSRs that report the configuration; each is the ArchConfig value of the same name.
_CONFIG = ("ROWS", "COLS", "BUS_BITS", "ACT_BYTES", "WEIGHT_BYTES", "ACC_DEPTH", "LANES")
#: The registers by name, in address order.
CSRS: dict[str, CSR] = {csr.name: csr for csr in _build()}
#: Bytes that the map occupies: a power of two.
CSR_BYTES = 1 << (4 * len(CSRS) - 1).bit_length()


def core_digest(arch: ArchConfig) -> bytes:
    """16 bytes over architecture, instruction set and version: what DIGEST0..3 and every image carry."""
    return hashlib.sha256(arch.digest() + isa_for(arch).digest() + VERSION.to_bytes(4, "little")).digest()[
        :16
    ]


def config_values(arch: ArchConfig) -> dict[str, int]:
    """The values of the constant registers."""
    digest = core_digest(arch)
    return {
        "MAGIC": MAGIC,
        "VERSION": VERSION,
        **{f"DIGEST{i}": int.from_bytes(digest[4 * i : 4 * i + 4], "little") for i in range(4)},
        **{name: getattr(arch, name.lower()) for name in _CONFIG},
    }
