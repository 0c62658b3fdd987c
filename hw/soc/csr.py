"""The CSR block: the register table of `spec.regs` behind an AXI4-Lite port."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.soc.axi import Axi4LiteSignature
from systolith.spec.arch import ArchConfig
from systolith.spec.regs import (
    CSR_BYTES,
    CSRS,
    DEFAULT_WATCHDOG,
    WATCHDOG_BIT,
    Access,
    Control,
    config_values,
)

__all__ = ["CSR_ADDR_BITS", "CsrBlock", "settings_layout", "values_layout"]

CSR_ADDR_BITS = (CSR_BYTES - 1).bit_length()
_SLVERR = 2


def settings_layout(arch: ArchConfig) -> data.StructLayout:
    """Registers that the host writes, by lower-case name; of a compact core those that it has a use for."""
    if arch.compact:
        address = {name: arch.addr_bits for name in ("program_lo", "data_lo", "entry")}
        return data.StructLayout(
            {
                **address,
                "program_size": arch.addr_bits + 1,
                "data_size": arch.addr_bits + 1,
                "watchdog": WATCHDOG_BIT + 1,
            }
        )
    return data.StructLayout({name.lower(): 32 for name, csr in CSRS.items() if csr.access is Access.WRITE})


def values_layout(arch: ArchConfig) -> data.StructLayout:
    """Registers that the core supplies (all read-only ones that are not constants), by lower-case name; of a
    compact core few."""
    if arch.compact:
        return data.StructLayout(
            {"status": 4, "error_code": 3, "error_addr": arch.addr_bits, "cycles_lo": 32}
        )
    constants = config_values(arch)
    return data.StructLayout(
        {
            name.lower(): 32
            for name, csr in CSRS.items()
            if csr.access is Access.READ and name not in constants
        }
    )


class CsrBlock(wiring.Component):
    """All control and status registers.

    Members
    -------
    bus : In(Axi4LiteSignature)   one access at a time; SLVERR on an address without a register
    values : In                   see `values_layout`
    settings : Out                see `settings_layout`
    start, reset : Out(1)         pulse in the cycle after CONTROL is written; RESET wins over START
    running : In(1)               settings cannot be written

    Timing
    ------
    A read answers two cycles after its address, a write one cycle after address and data have both arrived.
    The next access of either kind is taken when the answer is.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "bus": In(Axi4LiteSignature(CSR_ADDR_BITS)),
                "values": In(values_layout(arch)),
                "settings": Out(settings_layout(arch), init={"watchdog": DEFAULT_WATCHDOG}),
                "start": Out(1),
                "reset": Out(1),
                "running": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bus = self.bus
        # What a core does not have reads as zero.
        values = {name.lower(): value for name, value in config_values(self._arch).items()}
        for part in (self.settings, self.values):
            values |= {name: part[name] for name, _ in part.shape()}
        words = [Const(0, 32)] * (1 << CSR_ADDR_BITS - 2)
        for name, csr in CSRS.items():
            if csr.access is not Access.TRIGGER:
                words[csr.address // 4] = values.get(name.lower(), 0)
        # One read at a time; between its address and its answer, `reading`, the value is chosen by registers.
        free, reading = Signal(init=1), Signal()
        address = Signal(CSR_ADDR_BITS - 2, reset_less=True)
        m.d.comb += bus.arready.eq(free)
        m.d.sync += reading.eq(bus.arvalid & free)
        with m.If(free):
            m.d.sync += [address.eq(bus.araddr[2:]), free.eq(~bus.arvalid)]
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += [bus.rvalid.eq(0), free.eq(1)]
        with m.If(reading):
            m.d.sync += [
                bus.rvalid.eq(1),
                bus.rresp.eq(Mux(address < len(CSRS), 0, _SLVERR)),
                bus.rdata.eq(_choose(address, words)),
            ]
        settings = dict(self.settings.shape())
        write = Signal()
        m.d.comb += [
            write.eq(bus.awvalid & bus.wvalid & ~bus.bvalid),
            bus.awready.eq(write),
            bus.wready.eq(write),
        ]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        m.d.sync += [self.start.eq(0), self.reset.eq(0)]
        with m.If(write):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(0)]
            with m.Switch(bus.awaddr[2:]):
                for name, csr in CSRS.items():
                    with m.Case(csr.address // 4):
                        if csr.access is Access.WRITE and name.lower() in settings:
                            with m.If(~self.running):
                                self._write(m, self.settings[name.lower()], self._kept(name))
                        elif csr.access is Access.TRIGGER:
                            bits = Signal(4, name="control")
                            m.d.comb += bits.eq(Mux(bus.wstrb[0], bus.wdata, 0))
                            reset = (bits & int(Control.RESET)).any()
                            m.d.sync += [
                                self.reset.eq(reset),
                                self.start.eq((bits & int(Control.START)).any() & ~reset),
                            ]
                with m.Default():
                    m.d.sync += bus.bresp.eq(_SLVERR)
        return m

    def _kept(self, name: str) -> int:
        """The bits of a setting that can be written."""
        if not self._arch.compact:
            return (1 << 32) - 1
        # WATCHDOG keeps one bit. Sizes keep all; the others are multiples of 16.
        return {"WATCHDOG": 1 << WATCHDOG_BIT, "DATA_SIZE": -1, "PROGRAM_SIZE": -1}.get(name, -16)

    def _write(self, m: Module, register, kept: int) -> None:
        for bit in range(len(register)):
            if kept >> bit & 1:
                with m.If(self.bus.wstrb[bit // 8]):
                    m.d.sync += register[bit].eq(self.bus.wdata[bit])


def _choose(index, words: list):
    """One of 2**n words, by a tree: half as many LUTs as what synthesis makes of a switch."""
    if len(words) == 1:
        return words[0]
    return Mux(
        index[-1],
        _choose(index[:-1], words[len(words) // 2 :]),
        _choose(index[:-1], words[: len(words) // 2]),
    )
