"""The control and status registers behind AXI4-Lite."""

from amaranth.hdl import Cat, Module, Mux, Signal

from systolith.hw.soc.csr import CsrBlock
from systolith.spec.arch import PRESETS
from systolith.spec.regs import CSRS, DEFAULT_WATCHDOG, Access, Control, config_values
from tests.formal.kit.claims import Claims
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.streams import stays_offered

_CSR = "systolith.hw.soc.csr"
_SLVERR = 2


def _reads(m: Module, claims: Claims, block: CsrBlock) -> None:
    """Claims of the read channels; a register that the host sets reads as its setting."""
    bus = block.bus
    constants = {name.lower(): value for name, value in config_values(PRESETS["tiny"]).items()}
    #: 0: no read; 1: its value is chosen; 2: it is answered.
    phase, address = Signal(2), Signal(len(bus.araddr) - 2)
    expected, is_register = Signal(32), Signal()
    with m.Switch(address):
        for name, csr in CSRS.items():
            with m.Case(csr.address // 4):
                m.d.comb += is_register.eq(1)
                if csr.access is Access.WRITE:
                    m.d.comb += expected.eq(block.settings[name.lower()])
                elif csr.access is Access.READ:
                    key = name.lower()
                    m.d.comb += expected.eq(constants[key] if key in constants else block.values[key])
    given, given_error = Signal(32), Signal()
    m.d.sync += [given.eq(expected), given_error.eq(~is_register)]
    with m.Switch(phase):
        with m.Case(0):
            with m.If(bus.arvalid & bus.arready):
                m.d.sync += [phase.eq(1), address.eq(bus.araddr[2:])]
        with m.Case(1):
            m.d.sync += phase.eq(2)
        with m.Case(2):
            with m.If(bus.rvalid & bus.rready):
                m.d.sync += phase.eq(0)
    fresh = Signal()
    m.d.sync += fresh.eq(phase == 1)
    claims.claim("a_read_at_a_time", bus.arready == (phase == 0))
    claims.claim("a_read_is_answered_once", bus.rvalid == (phase == 2))
    stays = stays_offered(m, "r", bus.rvalid, bus.rready, Cat(bus.rdata, bus.rresp))
    claims.claim("an_answer_stays", stays)
    error = bus.rresp == Mux(given_error, _SLVERR, 0)
    claims.claim("a_register_is_read", ~fresh | given_error | (bus.rdata == given))
    claims.claim("an_error_where_there_is_none", ~fresh | error)
    claims.invariant("phase", phase != 3)
    claims.cover("a_setting_is_read", fresh & (bus.rdata == 0x12345678))


@proof(
    Plant(
        "a setting changes while the core runs",
        _CSR,
        "with m.If(~self.running):",
        "with m.If(1):",
        "settings_are_what_was_written",
    ),
    Plant(
        "the strobes of the byte beside",
        _CSR,
        "with m.If(self.bus.wstrb[bit // 8])",
        "with m.If(self.bus.wstrb[bit // 16])",
        "settings_are_what_was_written",
    ),
    Plant(
        "an answer is taken back",
        _CSR,
        "with m.If(bus.bready):",
        "with m.If(1):",
        "a_response_stays",
    ),
    Plant(
        "START wins over RESET",
        _CSR,
        "(bits & int(Control.START)).any() & ~reset",
        "(bits & int(Control.START)).any()",
        "start_and_reset",
    ),
    Plant(
        "a read is taken while one is answered",
        _CSR,
        "bus.arready.eq(free)",
        "bus.arready.eq(free | bus.rvalid)",
        "a_read_at_a_time",
    ),
    depth=2,
    cycles=8,
)
def csr_block(m: Module, claims: Claims) -> None:
    """AXI4-Lite by its rules: an access of each kind at a time, each answered once, an answer stays until it
    is taken, SLVERR where there is no register; a setting is what was written last, byte by byte, and nothing
    changes it while the core runs; a register reads as what it is; `start` and `reset` pulse with CONTROL's
    bits, RESET wins."""
    block = CsrBlock(PRESETS["tiny"])
    claims.design("block", block)
    bus = block.bus
    _reads(m, claims, block)
    written = bus.awvalid & bus.awready
    claims.claim("address_and_data_together", written == (bus.wvalid & bus.wready))
    responds = Signal()
    with m.If(written):
        m.d.sync += responds.eq(1)
    with m.Elif(bus.bvalid & bus.bready):
        m.d.sync += responds.eq(0)
    claims.claim("a_write_is_answered_once", bus.bvalid == responds)
    claims.claim("a_write_at_a_time", ~written | ~responds)
    claims.claim("a_response_stays", stays_offered(m, "b", bus.bvalid, bus.bready, bus.bresp))
    was_written, there = Signal(), Signal()
    word = bus.awaddr[2:]
    m.d.sync += [was_written.eq(written), there.eq(word < len(CSRS))]
    claims.claim("a_response_says_so", ~was_written | (bus.bresp == Mux(there, 0, _SLVERR)))
    # Settings, each beside what was written to it.
    right = []
    for name, csr in CSRS.items():
        if csr.access is Access.WRITE:
            setting = block.settings[name.lower()]
            init = DEFAULT_WATCHDOG if name == "WATCHDOG" else 0
            shadow = Signal(32, name=f"written_{name.lower()}", init=init)
            with m.If(written & ~block.running & (word == csr.address // 4)):
                for byte in range(4):
                    with m.If(bus.wstrb[byte]):
                        m.d.sync += shadow.word_select(byte, 8).eq(bus.wdata.word_select(byte, 8))
            right.append(setting == shadow)
    claims.claim("settings_are_what_was_written", Cat(right).all())
    control = written & (word == CSRS["CONTROL"].address // 4) & bus.wstrb[0]
    resets = control & (bus.wdata & int(Control.RESET)).any()
    starts = control & (bus.wdata & int(Control.START)).any() & ~resets
    started, was_reset = Signal(), Signal()
    m.d.sync += [started.eq(starts), was_reset.eq(resets)]
    claims.claim("start_and_reset", (block.start == started) & (block.reset == was_reset))
    claims.cover("starts", block.start)
