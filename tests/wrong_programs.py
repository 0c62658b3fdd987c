"""Programs that a core must stop, each with its documented code; for the machine and for RTL."""

from systolith.spec.isa import isa_for
from systolith.spec.regs import ErrorCode, Status
from tests.graphs import ARCHS

__all__ = ["ARCH", "HALT", "ISA", "NOP", "WRONG", "abort", "execute", "word"]

ARCH = ARCHS["tiny"]
ISA = isa_for(ARCH)


def word(text: str) -> bytes:
    """An instruction word from a line of assembly."""
    return ISA.encode(ISA.assemble(text))


NOP, HALT = word("NOP"), word("HALT")
_LINE = ISA.word_bytes

#: Name to (words, error code, index of the instruction at fault).
WRONG = {
    "opcode": ([NOP, b"\x0f" + bytes(_LINE - 1), HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    "reserved bit": ([NOP, NOP, HALT[:-1] + b"\x80"], ErrorCode.ILLEGAL_INSTRUCTION, 2),
    "NOP waits": ([NOP, word("NOP wait=LOAD"), HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    "HALT signals": ([word("HALT signal=STORE")], ErrorCode.ILLEGAL_INSTRUCTION, 0),
    "deep depthwise": ([NOP, word("MATMUL mode=DEPTHWISE kt=2"), HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    "MATMUL accumulator": (
        [word(f"MATMUL acc={ARCH.acc_depth - 1} ox=2 final=1"), HALT],
        ErrorCode.OPERAND_RANGE,
        0,
    ),
    "MATMUL tile": (
        [NOP, word(f"MATMUL tile={ARCH.weight_tiles - 1} kt=2"), HALT],
        ErrorCode.OPERAND_RANGE,
        1,
    ),
    "OUTPUT accumulator": (
        [word("MATMUL ox=2 final=1"), word(f"OUTPUT acc={ARCH.acc_depth - 1} nx=2"), HALT],
        ErrorCode.OPERAND_RANGE,
        1,
    ),
    "LOAD alignment": (
        [NOP, word("LOAD space=WEIGHT region=DATA bytes=8"), HALT],
        ErrorCode.OPERAND_RANGE,
        1,
    ),
    "LOAD past SRAM": (
        [NOP, word(f"LOAD region=DATA base={ARCH.act_bytes - 1} bytes=2"), HALT],
        ErrorCode.OPERAND_RANGE,
        1,
    ),
    "LOAD past region": ([NOP, word("LOAD region=DATA offset=4095 bytes=2"), HALT], ErrorCode.REGION, 1),
    "STORE past SRAM": (
        [word(f"STORE region=DATA base={ARCH.act_bytes - 1} bytes=2"), HALT],
        ErrorCode.OPERAND_RANGE,
        0,
    ),
    "STORE past region": ([NOP, word("STORE region=DATA offset=4095 bytes=2"), HALT], ErrorCode.REGION, 1),
    "STORE to PROGRAM": ([NOP, word("STORE region=PROGRAM bytes=1"), HALT], ErrorCode.REGION, 1),
    "no HALT": ([NOP, NOP], ErrorCode.REGION, 2),
    "OUTPUT without MATMUL": ([NOP, word("OUTPUT"), HALT], ErrorCode.WATCHDOG, 1),
    "ADD without OUTPUT": ([NOP, word("ADD a_source=OUTPUT"), HALT], ErrorCode.WATCHDOG, 1),
    "CELL without OUTPUT": ([NOP, word("CELL kind=RNN units=2"), HALT], ErrorCode.WATCHDOG, 1),
    "token never given": (
        [NOP, NOP, word("LOAD wait=STORE region=DATA bytes=1"), HALT],
        ErrorCode.WATCHDOG,
        2,
    ),
    "token given to another": (
        [word("LOAD signal=STORE region=DATA"), word("MATMUL wait=LOAD"), HALT],
        ErrorCode.WATCHDOG,
        1,
    ),
    "one token taken twice": (
        [word("LOAD signal=STORE region=DATA"), *[word("STORE wait=LOAD region=DATA")] * 2, HALT],
        ErrorCode.WATCHDOG,
        2,
    ),
    "too many tokens": ([NOP, *[word("LOAD signal=STORE region=DATA")] * 64, HALT], ErrorCode.SEMAPHORE, 64),
}


def execute(
    device, words: list[bytes], data_size: int = 4096, watchdog: int = 2000, limit: int = 100_000
) -> tuple[Status, ErrorCode, int]:
    """Run instruction words at PROGRAM offset 0; returns (status, code, offset of the fault)."""
    device.reset()
    _start(device, words, data_size, watchdog)
    device.wait(limit)
    status = Status(device.csr_read("STATUS"))
    result = (
        status & (Status.DONE | Status.ERROR),
        ErrorCode(device.csr_read("ERROR_CODE")),
        device.csr_read("ERROR_ADDR"),
    )
    device.csr_write("WATCHDOG", 1 << 20)
    return result


def abort(device, words: list[bytes], cycles: int) -> None:
    """Run instruction words for so many cycles, and reset the core: it is idle then."""
    _start(device, words, 4096, 1 << 20)
    device.run(cycles)
    device.reset()
    assert device.csr_read("STATUS") == 0, f"after {cycles} cycles"


def _start(device, words: list[bytes], data_size: int, watchdog: int) -> None:
    program = b"".join(words)
    device.write(0, program + bytes(64))
    for name, value in (
        ("PROGRAM_LO", 0),
        ("PROGRAM_HI", 0),
        ("PROGRAM_SIZE", len(program)),
        ("DATA_LO", 1 << 16),
        ("DATA_HI", 0),
        ("DATA_SIZE", data_size),
        ("ENTRY", 0),
        ("WATCHDOG", watchdog),
    ):
        device.csr_write(name, value)
    device.start()
