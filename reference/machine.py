"""The functional machine: executes decoded instructions, one after another, on the SRAMs as the hardware has
them.

It is the `machine` level of the ladder. Engines do not run at the same time here, so tokens are only counted;
that they make the hardware equivalent is what `hazards.check_order` proves. Where the hardware would wait for
something that no earlier instruction gives, the machine stops with WATCHDOG.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from systolith.reference.meter import Meter
from systolith.reference.params import unpack_params
from systolith.reference.requantise import lookup
from systolith.spec import cells, numerics
from systolith.spec.arch import ArchConfig
from systolith.spec.cells import GATE
from systolith.spec.errors import SystolithError
from systolith.spec.isa import (
    Cell,
    Destination,
    Engine,
    Instr,
    IsaError,
    Mode,
    OperandA,
    Region,
    Space,
    isa_for,
    semaphore_bits,
)
from systolith.spec.regs import ErrorCode

__all__ = ["Effect", "Machine", "MachineError", "Observer"]


class Effect(NamedTuple):
    """What one instruction wrote, in the hardware's order.

    Parameters
    ----------
    space : str         'act', 'weight', 'param', 'table'; 'data' (STORE); 'acc' (MATMUL); 'chain' (OUTPUT to
            VECTOR)
    addresses : [n]     of the first byte of each row; for 'acc' the entry, for 'chain' the row's number
    rows : [n, width]   bytes; for 'acc' int32 sums, one row each time that a tile adds to an entry
    kept : [n]          leading elements of each row that are written
    """

    space: str
    addresses: np.ndarray
    rows: np.ndarray
    kept: np.ndarray


#: Called as (offset, instr, effect) after each instruction that writes anything.
Observer = Callable[[int, Instr, Effect], None]


class MachineError(SystolithError):
    """The core would stop here.

    Parameters
    ----------
    code : ErrorCode
    offset : int      place of the instruction, in the PROGRAM region
    reason : str
    """

    def __init__(self, code: ErrorCode, offset: int, reason: str) -> None:
        self.code, self.offset = code, offset
        super().__init__(f"{code.name} at offset {offset}: {reason}")


class Machine:
    """One core and its SRAMs.

    Parameters
    ----------
    arch : ArchConfig
    program, data : uint8 arrays                  the two regions of external memory (views; STORE writes into
                    `data`)
    on_instruction : called as (offset, instr, effect) after each instruction that writes anything, or None
    """

    def __init__(
        self,
        arch: ArchConfig,
        program: np.ndarray,
        data: np.ndarray,
        on_instruction: Observer | None = None,
    ) -> None:
        self.arch, self.isa = arch, isa_for(arch)
        self.set_regions(program, data)
        self.on_instruction = on_instruction
        self.act = np.zeros(arch.act_bytes, np.int8)
        self.weight = np.zeros(arch.weight_bytes, np.int8)
        self.param = np.zeros(arch.param_bytes, np.uint8)
        self.table = np.zeros(arch.table_bytes, np.int8)
        self.acc = np.zeros((arch.acc_depth, arch.cols), np.int32)
        self.released: deque[int] = deque()
        self.chain: deque[np.ndarray] = deque()
        #: Tokens given and not yet taken, by producer and consumer. NOP and HALT, which have no engine, take
        #: none.
        self.tokens: Counter[tuple[Engine | None, Engine | None]] = Counter()
        self.instructions = 0
        #: What a program may spend; a caller that has a budget sets its own.
        self.meter = Meter(arch)
        self._offset = 0
        self._tile_order = np.array(
            [[arch.weight_offset(r, c) for c in range(arch.cols)] for r in range(arch.rows)]
        )
        self._execute = {
            "NOP": lambda instr: None,
            "HALT": lambda instr: None,
            "LOAD": self._load,
            "STORE": self._store,
            "MATMUL": self._matmul,
            "OUTPUT": self._output,
            "ADD": self._binary,
            "MUL": self._binary,
            "POOL": self._pool,
            "CELL": self._cell,
        }
        missing = set(self.isa.by_mnemonic) - set(self._execute)
        if missing:
            raise AssertionError(f"instructions without a rule: {sorted(missing)}")

    def set_regions(self, program: np.ndarray, data: np.ndarray) -> None:
        """Other windows of external memory."""
        self.regions = {Region.PROGRAM: program, Region.DATA: data}

    @property
    def offset(self) -> int:
        """Offset of the instruction that was executed last, in the PROGRAM region."""
        return self._offset

    def reset(self) -> None:
        """Bring the engines to idle; SRAM contents are kept, as in hardware."""
        self.released.clear()
        self.chain.clear()
        self.tokens.clear()

    def run(self, entry: int) -> None:
        """Execute from `entry` to HALT.

        Raises
        ------
        MachineError                      Where the core would stop with an error.
        OutOfCyclesError, DeviceError     As `Meter.charge`.
        """
        offset = entry
        while self.step(offset).mnemonic != "HALT":
            offset += self.isa.word_bytes

    def step(self, offset: int) -> Instr:
        """Execute the instruction at `offset` of the PROGRAM region, and return it.

        Raises
        ------
        MachineError   Where the core would stop with an error.
        """
        program, size = self.regions[Region.PROGRAM], self.isa.word_bytes
        self._offset = offset
        if offset + size > len(program):
            raise MachineError(ErrorCode.REGION, offset, "the stream runs past the end of the PROGRAM region")
        try:
            instr = self.isa.decode(program[offset : offset + size].tobytes())
        except IsaError as error:
            raise MachineError(ErrorCode.ILLEGAL_INSTRUCTION, offset, str(error)) from error
        self.execute(instr)
        return instr

    def execute(self, instr: Instr) -> None:
        """One instruction.

        Raises
        ------
        MachineError                      Where the core would stop with an error.
        OutOfCyclesError, DeviceError     As `Meter.charge`, before anything is done.
        """
        self.meter.charge(instr)
        if instr.mnemonic in ("NOP", "HALT") and (instr.wait or instr.signal):
            self._fail(ErrorCode.ILLEGAL_INSTRUCTION, f"{instr.mnemonic} must not wait or signal")
        engine = self.isa.by_mnemonic[instr.mnemonic].engine
        for producer in Engine:
            if instr.wait >> producer & 1:
                if not self.tokens[producer, engine]:
                    self._fail(
                        ErrorCode.WATCHDOG,
                        f"{instr.mnemonic} waits for a token of {producer.name} that no earlier instruction "
                        f"gives",
                    )
                self.tokens[producer, engine] -= 1
        self._execute[instr.mnemonic](instr)
        for consumer in Engine:
            if instr.signal >> consumer & 1:
                self.tokens[engine, consumer] += 1
                if self.tokens[engine, consumer] >> semaphore_bits(self.arch):
                    self._fail(
                        ErrorCode.SEMAPHORE,
                        f"{instr.mnemonic} gives {consumer.name} more tokens than a semaphore counts",
                    )
        self.instructions += 1

    def _fail(self, code: ErrorCode, reason: str) -> None:
        raise MachineError(code, self._offset, reason)

    # -- transfers
    # ----------------------------------------------------------------------------------------------------
    def _rows(self, instr: Instr, sram_size: int, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """External and on-chip address of each row, checked."""
        region = self.regions[Region(instr.region)]
        p, r = np.arange(instr.planes)[:, None], np.arange(instr.rows)[None, :]
        bits = {f.name: f.bits for f in self.isa.by_mnemonic[instr.mnemonic].fields}
        ext = ((instr.offset + p * instr.ext_plane + r * instr.ext_row) % (1 << bits["offset"])).ravel()
        local = ((instr.base + p * instr.plane + r * instr.row) % (1 << bits["base"])).ravel()
        if (ext + instr.bytes > len(region)).any():
            self._fail(ErrorCode.REGION, f"{instr.mnemonic} leaves the {Region(instr.region).name} region")
        if (local + instr.bytes > sram_size).any():
            self._fail(ErrorCode.OPERAND_RANGE, f"{instr.mnemonic} passes the end of its SRAM")
        if (ext % unit).any() or (local % unit).any() or instr.bytes % unit:
            self._fail(ErrorCode.OPERAND_RANGE, f"{instr.mnemonic} is not in whole beats")
        return ext, local

    def _load(self, instr: Instr) -> None:
        target = {
            Space.ACT: self.act,
            Space.WEIGHT: self.weight,
            Space.PARAM: self.param,
            Space.TABLE: self.table,
        }[Space(instr.space)]
        ext, local = self._rows(instr, len(target), 1 if instr.space == Space.ACT else self.arch.bus_bytes)
        source = self.regions[Region(instr.region)]
        lane = np.arange(instr.bytes)
        rows = source[ext[:, None] + lane]
        target[local[:, None] + lane] = rows.view(target.dtype)
        self._notify(instr, Space(instr.space).name.lower(), local, rows)

    def _store(self, instr: Instr) -> None:
        if instr.region != Region.DATA:
            self._fail(ErrorCode.REGION, "STORE names the PROGRAM region")
        ext, local = self._rows(instr, self.arch.act_bytes, 1)
        lane = np.arange(instr.bytes)
        rows = self.act[local[:, None] + lane].view(np.uint8)
        self.regions[Region.DATA][ext[:, None] + lane] = rows
        self._notify(instr, "data", ext, rows)

    # -- array
    # --------------------------------------------------------------------------------------------------------
    def _matmul(self, instr: Instr) -> None:
        arch = self.arch
        depthwise = instr.mode == Mode.DEPTHWISE
        if depthwise and (instr.kt > 1 or not arch.depthwise):
            self._fail(ErrorCode.ILLEGAL_INSTRUCTION, "DEPTHWISE with kt > 1, or on a core without it")
        width = arch.cols if depthwise else arch.rows
        counted = (
            np.arange(instr.taps - 1, instr.ox, instr.stride) if instr.ox >= instr.taps else np.arange(0)
        )
        entries = instr.oy * len(counted)
        tiles, counts = instr.ky * instr.kx * instr.kt, 256.0 if instr.high else 1.0
        if instr.acc + entries > arch.acc_depth or instr.tile + tiles > arch.weight_tiles:
            self._fail(ErrorCode.OPERAND_RANGE, "MATMUL passes the last accumulator entry or weight tile")
        oy, ox, lane = (
            np.arange(instr.oy)[:, None, None],
            np.arange(instr.ox)[None, :, None],
            np.arange(width),
        )
        total = np.zeros((entries, arch.cols), np.float64)
        partial = []
        index = 0
        for ky in range(instr.ky):
            y = self._coordinate("y0", instr.y0 + ky * instr.ky_y + oy * instr.oy_y)
            row_ok = (y >= 0) & (y < instr.height)
            for kx in range(instr.kx):
                for kt in range(instr.kt):
                    step = kx * instr.kx_x + kt * arch.rows
                    x = self._coordinate("x0", instr.x0 + step + ox * instr.ox_x) + lane
                    address = (
                        instr.base + ky * instr.ky_addr + step + oy * instr.oy_addr + ox * instr.ox_x + lane
                    ) % arch.act_bytes
                    inside = row_ok & (x >= 0) & (x < instr.row_bytes)
                    vectors = self._windowed(address, inside, instr.pad).astype(np.float64)
                    at = (instr.tile + index) * arch.tile_bytes
                    tile = (
                        self.weight[at : at + arch.tile_bytes][self._tile_order].astype(np.float64) * counts
                    )
                    index += 1
                    if depthwise:
                        for r in range(instr.taps):
                            total += (vectors[:, counted - r] * tile[r]).reshape(entries, arch.cols)
                        # Rows beyond the taps see vectors of the previous output row; only zero weights make
                        # that meaningful.
                        if tile[instr.taps :].any():
                            self._fail(
                                ErrorCode.OPERAND_RANGE,
                                "MATMUL takes a DEPTHWISE tile that has weights beyond its taps, which the "
                                "machine does not model",
                            )
                    else:
                        total += vectors[:, counted].reshape(entries, width) @ tile
                    if self.on_instruction:
                        partial.append(total.astype(np.int64))
        where = slice(instr.acc, instr.acc + entries)
        before = self.acc[where].astype(np.int64) if instr.accumulate else 0
        self.acc[where] = (total.astype(np.int64) + before).astype(np.int32)
        if instr.final:
            self.released.extend(range(instr.acc, instr.acc + entries))
        if self.on_instruction:
            rows = (np.stack(partial) + before).astype(np.int32).reshape(-1, arch.cols)
            self._notify(instr, "acc", np.tile(np.arange(instr.acc, instr.acc + entries), tiles), rows)

    def _windowed(self, address: np.ndarray, inside: np.ndarray, pad: int) -> np.ndarray:
        """Bytes of the activation SRAM where `inside`, `pad` where they are not looked at."""
        return np.where(inside, self.act[address], np.int8(pad))

    def _coordinate(self, field: str, value: np.ndarray) -> np.ndarray:
        """A compact core has no more bits for a coordinate than the operand it starts from."""
        if not self.arch.compact:
            return value
        half = 1 << (next(f.bits for f in self.isa.by_mnemonic["MATMUL"].fields if f.name == field) - 1)
        return (value + half) % (2 * half) - half

    # -- output stage
    # ---------------------------------------------------------------------------------------------------
    def _output(self, instr: Instr) -> None:
        arch, pixels = self.arch, instr.ny * instr.nx
        if instr.acc + pixels > arch.acc_depth:
            self._fail(ErrorCode.OPERAND_RANGE, "OUTPUT passes the last accumulator entry")
        for expected in range(instr.acc, instr.acc + pixels):
            if not self.released:
                self._fail(
                    ErrorCode.WATCHDOG, f"OUTPUT waits for accumulator {expected}, which no MATMUL releases"
                )
            if self.released.popleft() != expected:
                self._fail(
                    ErrorCode.OPERAND_RANGE,
                    f"OUTPUT reads accumulator {expected}, which is not the next one released; the machine "
                    "does not model another order",
                )
        line = self.param[instr.param * arch.param_line_bytes : (instr.param + 1) * arch.param_line_bytes]
        fields = unpack_params(line)
        sums = self.acc[instr.acc : instr.acc + pixels].astype(np.int64) + fields["bias"]
        if instr.dest == Destination.CELL:
            q = numerics.requantise(sums, fields["mult"], fields["shift"], 0, GATE.min, GATE.max).astype(
                np.int16
            )[:, : instr.channels]
        else:
            q = numerics.requantise(sums, fields["mult"], fields["shift"], instr.zero, instr.low, instr.high)
            q = self._table(instr, q.astype(np.int8))[:, : instr.channels]
        if instr.dest != Destination.ACT:
            for first in range(0, pixels):
                self.chain.extend(q[first, i : i + arch.lanes] for i in range(0, instr.channels, arch.lanes))
            if self.on_instruction:
                rows, kept = self._chunks(q)
                self._notify(instr, "chain", np.arange(len(rows)), rows, kept)
            return
        self._scatter(instr, q.reshape(instr.ny, instr.nx, instr.channels))

    # -- vector unit
    # ------------------------------------------------------------------------------------------------------
    def _addresses(self, instr: Instr, base: int, row: int, px: int, length: int) -> np.ndarray:
        y, x = np.arange(instr.ny)[:, None, None], np.arange(instr.nx)[None, :, None]
        return (base + y * row + x * px + np.arange(length)) % self.arch.act_bytes

    def _chained(self, instr: Instr, rows: int, length: int) -> np.ndarray:
        """[rows, length] results that OUTPUT sent, in chunks of `lanes`, the last of each row shorter."""
        lanes = self.arch.lanes
        widths = [min(lanes, length - first) for first in range(0, length, lanes)]
        count = rows * len(widths)
        if len(self.chain) < count:
            self._fail(
                ErrorCode.WATCHDOG,
                f"{instr.mnemonic} takes {count} chunks from OUTPUT, which sent {len(self.chain)}",
            )
        chunks = [self.chain.popleft() for _ in range(count)]
        if [len(chunk) for chunk in chunks] != widths * rows:
            self._fail(
                ErrorCode.OPERAND_RANGE,
                f"{instr.mnemonic} takes rows of {length} elements from OUTPUT, which sent others",
            )
        return np.concatenate(chunks).reshape(rows, length)

    def _binary(self, instr: Instr) -> None:
        if instr.a_source == OperandA.OUTPUT:
            pixels = instr.ny * instr.nx
            a = self._chained(instr, pixels, instr.bytes).reshape(instr.ny, instr.nx, instr.bytes)
        else:
            a = self.act[self._addresses(instr, instr.a, instr.a_row, instr.a_px, instr.bytes)]
        b = self.act[self._addresses(instr, instr.b, instr.b_row, instr.b_px, instr.bytes)]
        a, b = a.astype(np.int64) - instr.a_zero, b.astype(np.int64) - instr.b_zero
        total = a * instr.a_mult + b * instr.b_mult if instr.mnemonic == "ADD" else a * b * instr.a_mult
        q = numerics.saturate(
            numerics.round_shift(total, np.int64(instr.shift)) + instr.zero, instr.low, instr.high
        )
        self._scatter(instr, self._table(instr, q.astype(np.int8)))

    def _pool(self, instr: Instr) -> None:
        oy, ox = np.arange(instr.ny)[:, None, None], np.arange(instr.nx)[None, :, None]
        best = np.full((instr.ny, instr.nx, instr.bytes), -128, np.int8)
        for ky in range(instr.ky):
            y = instr.y0 + ky * instr.ky_y + oy * instr.oy_y
            for kx in range(instr.kx):
                x = instr.x0 + kx * instr.kx_x + ox * instr.ox_x
                inside = (y >= 0) & (y < instr.height) & (x >= 0) & (x < instr.row_bytes)
                address = self._addresses(
                    instr,
                    instr.base + ky * instr.ky_addr + kx * instr.kx_x,
                    instr.oy_addr,
                    instr.ox_x,
                    instr.bytes,
                )
                best = np.maximum(best, self._windowed(address, inside, -128))
        self._scatter(instr, self._table(instr, best))

    def _cell(self, instr: Instr) -> None:
        kind, chunks = Cell(instr.kind), -(-instr.units // self.arch.lanes)
        gates = self._chained(instr, kind.gates, instr.units).astype(np.int64)
        low, high, hidden = (
            (base + np.arange(instr.units)) % self.arch.act_bytes
            for base in (instr.state, instr.state_high, instr.dst)
        )
        state = (self.act[high].astype(np.int64) << 8) + self.act[low].view(np.uint8)
        wide = bool(instr.wide)
        if kind is Cell.LSTM:
            i, f, g, o = gates
            state, value = cells.lstm(i, f, g, o, state, instr.shift, wide)
        elif kind is Cell.GRU:
            r, z, new, h_part = gates
            state, value = cells.gru(r, z, new, h_part, state, wide)
        else:
            state, value = cells.rnn(gates[0], state, instr.alpha, wide)
        parts = [(low, state & 255), (high, state >> 8), (hidden, value)]
        if wide:
            value, rest = cells.split(value)
            parts[2:] = [
                (hidden, value),
                ((instr.dst_low + np.arange(instr.units)) % self.arch.act_bytes, rest),
            ]
        for address, data in parts:
            self.act[address] = data.astype(np.uint8).view(np.int8)
        if self.on_instruction:
            rows, kept = self._chunks(np.stack([data.astype(np.uint8).view(np.int8) for _, data in parts]))
            # The hardware writes all parts of one chunk before the next.
            order = np.arange(len(rows)).reshape(len(parts), chunks).T.ravel()
            addresses = np.concatenate([address[:: self.arch.lanes] for address, _ in parts])
            self._notify(instr, "act", addresses[order], rows[order], kept[order])

    def _table(self, instr: Instr, q: np.ndarray) -> np.ndarray:
        return lookup(
            q,
            self.table[instr.slot * numerics.TABLE_SIZE : (instr.slot + 1) * numerics.TABLE_SIZE]
            if instr.table
            else None,
        )

    def _scatter(self, instr: Instr, values: np.ndarray) -> None:
        """Write [ny, nx, bytes] results, chunk by chunk in the hardware's order (later writes win)."""
        length = values.shape[2]
        address = self._addresses(instr, instr.dst, instr.dst_row, instr.dst_px, length)
        self.act[address.ravel()] = values.ravel()
        if self.on_instruction:
            rows, kept = self._chunks(values.reshape(-1, length))
            self._notify(instr, "act", address[:, :, :: self.arch.lanes].ravel(), rows, kept)

    def _chunks(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n, length] results as the chunks of `lanes` in which they are moved, and how much of each
        counts."""
        (count, length), lanes = pixels.shape, self.arch.lanes
        chunks = -(-length // lanes)
        padded = np.zeros((count, chunks * lanes), pixels.dtype)
        padded[:, :length] = pixels
        return padded.reshape(-1, lanes), np.tile(
            np.minimum(lanes, length - np.arange(chunks) * lanes), count
        )

    def _notify(
        self,
        instr: Instr,
        space: str,
        addresses: np.ndarray,
        rows: np.ndarray,
        kept: np.ndarray | None = None,
    ) -> None:
        if self.on_instruction:
            kept = np.full(len(rows), rows.shape[1]) if kept is None else kept
            self.on_instruction(self._offset, instr, Effect(space, addresses, rows, kept))
