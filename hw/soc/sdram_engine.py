"""What drives an SDRAM chip: opens rows, streams columns, refreshes."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.soc.sdram_chip import SdramSignature, SdramTiming
from systolith.spec.memory import BURST_BEATS

__all__ = ["SdramEngine", "segment_layout"]

#: Refreshes after power-up, before the mode is set.
_FIRST_REFRESHES = 8
#: Cycles from setting the mode to the next command.
_MODE_CYCLES = 2
#: Cycles in which nobody drives the data pins when they turn from the chip to the controller.
_TURN_CYCLES = 1


def segment_layout(timing: SdramTiming, bus_bits: int) -> data.StructLayout:
    """Consecutive beats of one row.

    ``column`` counts beats; ``len`` is the beats minus 1; ``last``: ends its burst; ``error``: outside the
    chip, nothing is read or written.
    """
    return data.StructLayout(
        {
            "column": range(timing.columns * timing.bits // bus_bits),
            "bank": range(timing.banks),
            "row": range(timing.rows),
            "len": range(BURST_BEATS),
            "write": 1,
            "last": 1,
            "error": 1,
        }
    )


class _State(enum.Enum, shape=4):
    POWER_UP = 0
    #: Waits for a segment, or refreshes; whether the segment's row is open.
    LOOK = 1
    #: Another row of the bank is open.
    CLOSE = 2
    ACTIVATE = 3
    #: Close all banks, for REFRESH.
    CLOSE_ALL = 4
    REFRESH = 5
    SET_MODE = 6
    #: The row is open: the streamer may have the segment. The only one with the highest bit, by which it is
    #: known.
    READY = 8


class SdramEngine(wiring.Component):
    """Executes segments in order. Two parts work at the same time: the *opener* has the row of a segment open
    before the *streamer* is done with the segment before, wherever that is in another bank or in the same
    row. A row stays open until another of its bank is needed or a refresh is due.

    A beat is one READ or WRITE with a burst length of `words`, so column commands leave `words` - 1 slots of
    the command bus to the opener.

    Parameters
    ----------
    timing : SdramTiming
    bus_bits : int      width of a beat: 1, 2, 4 or 8 words
    pin_cycles : int    registers between `pins` and the chip, to and fro together: 0 if these are the pins, 2
                 behind registered buffers

    Members
    -------
    segments : In(stream)   see `segment_layout`
    writes : In(stream)     ``data``, ``strobe`` of the next beat to be written; has all beats of a segment
             before the segment comes
    reads : Out             ``valid``, ``data``, ``last``, ``error``: beats in order, which must be taken
    written : Out           ``valid``, ``error``: the last beat of a burst was written
    pins : Out(SdramSignature)   all from registers, but `clk_en` and `cs`, which are always 1

    Timing
    ------
    One word per cycle within segments, and from one segment to the next where the row is open in time: after
    a segment of t_rp + t_rcd + 3 cycles in another bank it is. A refresh takes t_rp + t_rfc + t_rcd and a few
    cycles. From writing to reading no cycle is lost; from reading to writing, the CAS latency and one more.
    In READ the first word is taken from `pins.dq_i` CAS latency + `pin_cycles` cycles after the cycle with
    the command on `pins`.
    """

    def __init__(self, timing: SdramTiming, *, bus_bits: int, pin_cycles: int = 0) -> None:
        self._timing = timing
        self._words = timing.words(bus_bits)
        self._interval = timing.refresh_cycles(bus_bits)
        self._pin_cycles = pin_cycles
        beat = {"data": bus_bits, "last": 1, "error": 1}
        super().__init__(
            {
                "segments": In(stream.Signature(segment_layout(timing, bus_bits))),
                "writes": In(
                    stream.Signature(data.StructLayout({"data": bus_bits, "strobe": bus_bits // 8}))
                ),
                "reads": Out(
                    wiring.Signature({"valid": Out(1), **{name: Out(bits) for name, bits in beat.items()}})
                ),
                "written": Out(wiring.Signature({"valid": Out(1), "error": Out(1)})),
                "pins": Out(SdramSignature(timing)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        banks = self._timing.banks
        #: Commands of this cycle; on the pins in the next. Per bank where they differ.
        self._activate = Signal(banks)
        self._precharge = Signal(banks)
        self._column = Signal(banks)
        self._refresh = Signal()
        self._set_mode = Signal()
        self._reading = Signal()
        self._writing = Signal()
        self._starting = Signal(init=1)
        self._current = Signal(self.segments.payload.shape())
        self._streaming = Signal()
        self._taken = Signal()
        self._waits(m)
        self._open(m)
        self._stream(m)
        self._write_data(m)
        self._read_data(m)
        self._command_pins(m)
        return m

    # -- timing
    # --------------------------------------------------------------------------------------------------------
    def _waits(self, m: Module) -> None:
        """What may be commanded, as far as time is concerned."""
        timing, words = self._timing, self._words
        cycles = timing.cycles
        rp, rc, rfc, wr = (
            cycles(timing.t_rp),
            cycles(timing.t_rc),
            cycles(timing.t_rfc),
            cycles(timing.t_wr, 2),
        )
        idle = ((self._refresh, rfc), (self._set_mode, _MODE_CYCLES))
        self._precharge_ready = Signal(timing.banks)
        self._activate_ready = Signal(timing.banks)
        any_activate = self._activate.any()
        apart = _after(m, "apart", (any_activate, cycles(timing.t_rrd, 2)))
        for bank in range(timing.banks):
            active, closed, column = self._activate[bank], self._precharge[bank], self._column[bank]
            m.d.comb += [
                self._precharge_ready[bank].eq(
                    _after(
                        m,
                        f"precharge_{bank}",
                        (active, cycles(timing.t_ras)),
                        (column & self._reading, words),
                        (column & self._writing, words - 1 + wr),
                    )
                ),
                self._activate_ready[bank].eq(
                    apart & _after(m, f"activate_{bank}", (closed, rp), (active, rc), *idle)
                ),
            ]
        self._refresh_ready = _after(m, "refresh", (self._precharge.any(), rp), (any_activate, rc), *idle)
        self._read_ready = _after(m, "read", (self._reading | self._writing, words))
        # How long the segment that the opener has must still wait for its row when the streamer takes it, and
        # then that of the streamer: the opener never opens a second row before the first is in use.
        # Activation and taking are two cycles apart anyway.
        self._settle_cycles = max(cycles(timing.t_rcd) - 2, 0)
        if self._settle_cycles:
            self._settling = Signal(self._settle_cycles)
            m.d.sync += self._settling.eq(Mux(any_activate, -1, self._settling >> 1))
        self._write_ready = _after(
            m, "write", (self._writing, words), (self._reading, timing.cas_latency + words + _TURN_CYCLES)
        )

    # -- rows
    # --------------------------------------------------------------------------------------------------------
    def _open(self, m: Module) -> None:
        """The opener, which also powers up and refreshes."""
        timing = self._timing
        self._state = state = Signal(_State)
        is_open = Signal(timing.banks)
        rows = Signal(data.ArrayLayout(range(timing.rows), timing.banks), reset_less=True)
        due = self._due(m)
        power_up = Signal(range(timing.cycles(timing.power_up) + 1), init=timing.cycles(timing.power_up))
        left = Signal(range(_FIRST_REFRESHES + 1), init=_FIRST_REFRESHES)
        # Taken from the stream when the streamer has it.
        segment = self.segments.payload
        bank = segment.bank
        one_bank = Signal(timing.banks)
        busy = Signal()
        slot = Signal()
        m.d.comb += [
            one_bank.eq(1 << bank),
            busy.eq(self._streaming & (self._current.bank == bank)),
            # A beat of one word leaves no free slot: there the opener goes first, elsewhere the streamer.
            slot.eq(1 if self._words == 1 else ~(self._reading | self._writing)),
        ]
        self._opened = Signal()
        m.d.comb += [self._opened.eq(state.as_value()[-1]), self.segments.ready.eq(self._taken)]
        with m.Switch(state):
            with m.Case(_State.POWER_UP):
                m.d.sync += power_up.eq(power_up - 1)
                with m.If(power_up == 0):
                    m.d.sync += state.eq(_State.CLOSE_ALL)
            with m.Case(_State.LOOK):
                with m.If(due):
                    m.d.sync += state.eq(_State.CLOSE_ALL)
                with m.Elif(~self.segments.valid):
                    m.d.sync += state.eq(_State.LOOK)
                with m.Elif(segment.error | (is_open.bit_select(bank, 1) & (rows[bank] == segment.row))):
                    m.d.sync += state.eq(_State.READY)
                with m.Elif(is_open.bit_select(bank, 1)):
                    m.d.sync += state.eq(_State.CLOSE)
                with m.Else():
                    m.d.sync += state.eq(_State.ACTIVATE)
            with m.Case(_State.CLOSE):
                with m.If(slot & ~busy & self._precharge_ready.bit_select(bank, 1)):
                    m.d.comb += self._precharge.eq(one_bank)
                    m.d.sync += state.eq(_State.ACTIVATE)
            with m.Case(_State.ACTIVATE):
                with m.If(slot & self._activate_ready.bit_select(bank, 1)):
                    m.d.comb += self._activate.eq(one_bank)
                    m.d.sync += [state.eq(_State.READY), rows[bank].eq(segment.row)]
            with m.Case(_State.CLOSE_ALL):
                with m.If(~self._streaming & self._precharge_ready.all()):
                    m.d.comb += self._precharge.eq(-1)
                    m.d.sync += state.eq(_State.REFRESH)
            with m.Case(_State.REFRESH):
                with m.If(self._refresh_ready):
                    m.d.comb += self._refresh.eq(1)
                    m.d.sync += left.eq(left - 1)
                    with m.If(~self._starting):
                        m.d.sync += state.eq(_State.LOOK)
                    with m.Elif(left == 1):
                        m.d.sync += state.eq(_State.SET_MODE)
            with m.Case(_State.SET_MODE):
                with m.If(self._refresh_ready):
                    m.d.comb += self._set_mode.eq(1)
                    m.d.sync += [self._starting.eq(0), state.eq(_State.LOOK)]
            with m.Case(_State.READY):
                with m.If(self._taken):
                    m.d.sync += state.eq(_State.LOOK)
        m.d.sync += is_open.eq((is_open | self._activate) & ~self._precharge)

    def _due(self, m: Module) -> Signal:
        """1 when a refresh is due. The timer never waits, so a refresh that is late does not delay the
        next."""
        due = Signal()
        timer = Signal(range(self._interval), init=self._interval - 1)
        with m.If(self._refresh):
            m.d.sync += due.eq(0)
        with m.If(~self._starting):
            m.d.sync += timer.eq(timer - 1)
            with m.If(timer == 0):
                m.d.sync += [timer.eq(self._interval - 1), due.eq(1)]
        return due

    # -- columns
    # --------------------------------------------------------------------------------------------------------
    def _stream(self, m: Module) -> None:
        """The streamer."""
        current = self._current
        move = Signal()
        final = Signal()
        # This is the last beat of the current segment.
        self._ends = ends = Signal()
        ready = Const(1)
        if self._settle_cycles:
            settling = Signal(self._settle_cycles)
            ready = ~settling[0]
            m.d.sync += settling.eq(Mux(self._taken, self._settling, settling >> 1))
        if self._words == 1:
            ready = ready & ~(self._activate | self._precharge).any()
        m.d.comb += [
            self._reading.eq(self._streaming & ~current.write & self._read_ready & ready),
            self._writing.eq(self._streaming & current.write & self._write_ready & ready),
            move.eq(self._reading | self._writing),
            final.eq(move & ends),
            self._taken.eq(self._opened & (~self._streaming | final)),
            self._column.eq(move << current.bank),
            self.writes.ready.eq(self._writing),
        ]
        with m.If(move):
            m.d.sync += [
                current.column.eq(current.column + 1),
                current.len.eq(current.len - 1),
                ends.eq(current.len == 1),
            ]
        with m.If(final):
            m.d.sync += self._streaming.eq(0)
        with m.If(self._taken):
            m.d.sync += [
                current.eq(self.segments.payload),
                self._streaming.eq(1),
                ends.eq(self.segments.payload.len == 0),
            ]
        m.d.sync += [
            self.written.valid.eq(final & current.write & current.last),
            self.written.error.eq(current.error),
        ]

    def _write_data(self, m: Module) -> None:
        """Words of a beat to the pins, the first together with its command."""
        words, beat = self._words, self.writes.payload
        drive = Signal(words)
        values = Signal(len(beat.data), reset_less=True)
        lanes = len(self.pins.dqm)
        masks = Signal(len(beat.strobe), init=(1 << lanes) - 1)
        m.d.sync += [drive.eq(drive >> 1), values.eq(values >> self._timing.bits), masks.eq(masks >> lanes)]
        with m.If(self._starting):
            m.d.sync += masks[:lanes].eq(-1)
        with m.If(self._writing):
            m.d.sync += [values.eq(beat.data), masks.eq(~beat.strobe)]
            with m.If(~self._current.error):
                m.d.sync += drive.eq(-1)
        m.d.comb += [
            self.pins.dq_o.eq(values[: self._timing.bits]),
            self.pins.dqm.eq(masks[:lanes]),
            self.pins.dq_oe.eq(drive[0]),
        ]

    def _read_data(self, m: Module) -> None:
        """Words from the pins to beats; what is known of a beat travels beside it."""
        bits, words = self._timing.bits, self._words
        beat = Signal(bits * words, reset_less=True)
        m.d.sync += beat.eq(Cat(beat, self.pins.dq_i)[bits:])
        final = self._current.last & self._ends
        valid, last, error = self._reading, final, self._current.error
        # To the pins, through the chip, and until the last word is here.
        for step in range(1 + self._timing.cas_latency + self._pin_cycles + words):
            next_valid = Signal(name=f"read_{step}")
            next_last = Signal(name=f"last_{step}", reset_less=True)
            next_error = Signal(name=f"error_{step}", reset_less=True)
            m.d.sync += [next_valid.eq(valid), next_last.eq(last), next_error.eq(error)]
            valid, last, error = next_valid, next_last, next_error
        m.d.comb += [
            self.reads.valid.eq(valid),
            self.reads.data.eq(beat),
            self.reads.last.eq(last),
            self.reads.error.eq(error),
        ]

    def _command_pins(self, m: Module) -> None:
        """Encodes the command of this cycle; A10 means all banks."""
        timing, pins, current = self._timing, self.pins, self._current
        words = self._words
        column = Cat(Const(0, (words - 1).bit_length()), current.column) if words > 1 else current.column
        mode = (words - 1).bit_length() | timing.cas_latency << 4
        # Constant, so that a reset never stops the chip's clock.
        m.d.comb += [pins.clk_en.eq(1), pins.cs.eq(1)]
        m.d.sync += [
            pins.ras.eq(0),
            pins.cas.eq(0),
            pins.we.eq(0),
            pins.ba.eq(self.segments.payload.bank),
            pins.a.eq(self.segments.payload.row),
        ]
        # The state alone says what the command would say there, if it came.
        with m.Switch(self._state):
            with m.Case(_State.CLOSE):
                m.d.sync += pins.a.eq(0)
            with m.Case(_State.CLOSE_ALL):
                m.d.sync += pins.a.eq(1 << 10)
            with m.Case(_State.SET_MODE):
                m.d.sync += [pins.ba.eq(0), pins.a.eq(mode)]
        with m.If(self._activate.any()):
            m.d.sync += pins.ras.eq(1)
        with m.If(self._precharge.any()):
            m.d.sync += [pins.ras.eq(1), pins.we.eq(1)]
        with m.If(self._refresh):
            m.d.sync += [pins.ras.eq(1), pins.cas.eq(1)]
        with m.If(self._set_mode):
            m.d.sync += [pins.ras.eq(1), pins.cas.eq(1), pins.we.eq(1)]
        with m.If(self._reading | self._writing):
            m.d.sync += [
                pins.cas.eq(~current.error),
                pins.we.eq(self._writing & ~current.error),
                pins.ba.eq(current.bank),
                pins.a.eq(column),
            ]


def _after(m: Module, name: str, *events):
    """1 unless one of the events, (condition, cycles), was less than its cycles ago."""
    # One bit per cycle still to wait: the longest wait wins without a comparison.
    waiting = Signal(max(cycles for _, cycles in events) - 1, name=f"wait_{name}")
    if not len(waiting):
        return Const(1)
    mask = 0
    for condition, cycles in events:
        mask = mask | condition.replicate(cycles - 1) if cycles > 1 else mask
    m.d.sync += waiting.eq(waiting[1:] | mask)
    return ~waiting[0]
