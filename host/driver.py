"""The one host driver: it loads an image into a device, whatever the device is, and runs inferences."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping

import numpy as np

from systolith.host.budget import budget_of
from systolith.host.codes import dequantise, quantise
from systolith.host.device import Core
from systolith.host.inputs import InputError, check_inputs, port_specs
from systolith.spec.errors import DeviceError, OutOfCyclesError, SystolithError
from systolith.spec.image import Image
from systolith.spec.isa import IsaError, isa_for
from systolith.spec.manifest import IoTensor
from systolith.spec.memory import FULL_RATE, MemoryTiming
from systolith.spec.regs import MAGIC, VERSION, ErrorCode, Status

__all__ = ["Driver", "memory_needed"]

_ALIGN = 4096
#: The DATA region is cleared in pieces of this size.
_CLEARED_BYTES = 1 << 20


def memory_needed(image: Image) -> int:
    """Bytes of external memory, from address 0, that hold program and data, each from a page of its own."""
    return sum(size + -size % _ALIGN for size in (len(image.program), image.data_bytes))


class Driver:
    """An image on a device: the load stream has run, inferences may follow.

    When the load stream starts, the DATA region holds zeros but for the first values of states, so that what
    a program leaves there is the same on every device. On-chip memories keep what they held.

    Parameters
    ----------
    device : Core
    image : Image
    base : int              first byte of external memory that may be used
    max_cycles : int        budget of one stream; None: what `host.budget` gives the image
    memory : MemoryTiming   external memory of the device, for that budget

    Raises
    ------
    DeviceError        If the device is no Systolith core, or not the one that the image was compiled for, or
                       its memory does not hold program and data.
    OutOfCyclesError   If the load stream does not end within its budget.
    """

    def __init__(
        self,
        device: Core,
        image: Image,
        base: int = 0,
        max_cycles: int | None = None,
        memory: MemoryTiming = FULL_RATE,
    ) -> None:
        self.device, self.image = device, image
        self.budget = budget_of(image, memory, max_cycles)
        self._identify()
        self.program_base = base + -base % _ALIGN
        end = self.program_base + len(image.program)
        self.data_base = end + -end % _ALIGN
        self._check_memory()
        self.load_cycles = 0
        self.cycles = 0
        device.reset()
        device.write(self.program_base, image.program)
        for offset in range(0, image.data_bytes, _CLEARED_BYTES):
            size = min(_CLEARED_BYTES, image.data_bytes - offset)
            device.write(self.data_base + offset, bytes(size))
        for name, value in (("PROGRAM", self.program_base), ("DATA", self.data_base)):
            device.csr_write(f"{name}_LO", value & 0xFFFF_FFFF)
            device.csr_write(f"{name}_HI", value >> 32)
        device.csr_write("PROGRAM_SIZE", len(image.program))
        device.csr_write("DATA_SIZE", image.data_bytes)
        self.reset_state()
        self.load_cycles = self._execute(image.load_entry, self.budget.load)

    @property
    def state(self) -> bytes:
        """What the last run left for the next one; assign it to continue another stream."""
        return b"".join(
            self.device.read(self.data_base + item.offset, len(item.initial) // 2)
            for item in self.image.states
        )

    @state.setter
    def state(self, value: bytes) -> None:
        sizes = [len(item.initial) // 2 for item in self.image.states]
        if len(value) != sum(sizes):
            raise InputError(
                f"the state must have {sum(sizes)} bytes, not {len(value)}: take it from a session of the "
                f"same image"
            )
        for item, size in zip(self.image.states, sizes, strict=True):
            self.device.write(self.data_base + item.offset, value[:size])
            value = value[size:]

    def reset_state(self) -> None:
        """The next run is the first of a stream."""
        self.state = bytes.fromhex("".join(item.initial for item in self.image.states))

    def run(self, inputs: Mapping[str, np.ndarray], core: int = 0) -> dict[str, np.ndarray]:
        """One run of a core step, in the model's own names, shapes and types.

        Raises
        ------
        InputError         If a name, shape or type is wrong, or a value is not a number.
        DeviceError        If the core stops with an error.
        OutOfCyclesError   If it does not end within its budget; the core is reset.
        """
        step, tensors = self.image.cores[core], self.image.formats
        check_inputs(inputs, port_specs(tensors[name] for name in step.inputs))
        raw = self.run_int8({name: quantise(inputs[name], tensors[name]) for name in inputs}, core)
        return {name: dequantise(value, tensors[name]) for name, value in raw.items()}

    def run_int8(
        self, inputs: Mapping[str, np.ndarray], core: int = 0, read: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """One run of a core step on the int8 values that the core itself sees.

        Parameters
        ----------
        inputs : what is written before; the step's other inputs are as they stand in the DATA region
        core   : number of the step among the core steps, from 0
        read   : which of its outputs are read; None: all
        """
        step, tensors = self.image.cores[core], self.image.formats
        for name, value in inputs.items():
            io = tensors[name]
            data = np.ascontiguousarray(value.transpose(io.order), dtype=np.int8)
            self.device.write(self.data_base + io.offset, data.tobytes())
        self.cycles = self._execute(step.entry, self.budget.runs[core])
        return {name: self._read(tensors[name]) for name in (step.outputs if read is None else read)}

    def _read(self, io: IoTensor) -> np.ndarray:
        data = np.frombuffer(self.device.read(self.data_base + io.offset, io.bytes), np.int8)
        return data.reshape([io.shape[axis] for axis in io.order]).transpose(np.argsort(io.order))

    def _identify(self) -> None:
        device = self.device
        if (magic := device.csr_read("MAGIC")) != MAGIC:
            raise DeviceError(
                f"the device is no Systolith core: MAGIC reads 0x{magic:08x} instead of 0x{MAGIC:08x}"
            )
        if (version := device.csr_read("VERSION")) >> 16 != VERSION >> 16:
            raise DeviceError(
                f"the core has version {version >> 16}, this host speaks version {VERSION >> 16}: rebuild "
                f"the bitstream"
            )
        digest = b"".join(device.csr_read(f"DIGEST{i}").to_bytes(4, "little") for i in range(4))
        if digest != self.image.digest:
            raise DeviceError(
                f"the image was compiled for another core (digest {self.image.digest.hex()[:12]}, "
                f"architecture {self.image.arch.name!r}) than this device (digest {digest.hex()[:12]}): "
                "compile the model for this device"
            )

    def _check_memory(self) -> None:
        end, size = self.data_base + self.image.data_bytes, self.device.memory_bytes
        if end > size:
            raise DeviceError(
                f"the image needs {end:,} bytes of external memory ({len(self.image.program):,} for its "
                f"program, {self.image.data_bytes:,} for data), and this device has {size:,}: compile a "
                "smaller model, or run it on a device with more"
            )

    def _execute(self, entry: int, budget: int) -> int:
        device = self.device
        device.csr_write("ENTRY", entry)
        device.start()
        try:
            device.wait(budget)
        except (OutOfCyclesError, KeyboardInterrupt):
            # Nothing is left running, on a board too.
            with contextlib.suppress(SystolithError):
                device.reset()
            raise
        status = Status(device.csr_read("STATUS"))
        if not status & Status.DONE:
            raise DeviceError(self._failure())
        return device.csr_read("CYCLES_LO") | device.csr_read("CYCLES_HI") << 32

    def _failure(self) -> str:
        code = ErrorCode(self.device.csr_read("ERROR_CODE"))
        offset = self.device.csr_read("ERROR_ADDR")
        isa = isa_for(self.image.arch)
        try:
            text = isa.disassemble(isa.decode(self.image.program[offset : offset + isa.word_bytes]))
        except IsaError as error:
            text = str(error)
        return f"the core stopped with {code.name} at program offset {offset}: {text}"
