// Test bench of a Verilated core, driven from Python through the extern "C" functions at the end: an AXI4-Lite manager for
// the CSRs, an AXI4 memory for the manager port, protocol checks, and a log of the trace ports.
//
// Python puts in front of this file: memory.h, the model's header and MODEL (its class), AXI(n) and CSR(n) (port n of each bus),
// BUS_BYTES, DATA_BYTES (of a log entry), VM_TRACE, and `log_events(Model&, Log&)`.
//
// A cycle: outputs are sampled while the clock is low; rising edge; then memory and host compute their inputs for the next
// cycle from what was sampled. No input depends combinationally on an output.

struct Problem { std::string text; };

// -- settings ----------------------------------------------------------------------------------------------------------

struct Fault { uint64_t first, last; unsigned response; bool read, write; };

struct Settings {
    uint32_t latency;          // cycles from an address to its first beat, and from the last beat of a write to its response
    uint32_t bytes_per_cycle;  // of each direction
    uint32_t outstanding;      // bursts accepted at most, of each direction
    uint32_t pad;
    uint64_t seed;
    double stall;              // probability that a channel pauses, per channel and cycle
    uint64_t memory_bytes;     // beyond: DECERR
};

// -- log -------------------------------------------------------------------------------------------------------------

// One observation, as a NumPy record.
struct Event {
    uint64_t cycle, addr, mask;
    uint32_t source, ordinal;
    uint8_t data[DATA_BYTES];
};

struct Log {
    bool on = false;
    // Writes too, not only that instructions are done.
    bool writes = false;
    uint64_t cycle = 0;
    std::vector<Event> events;
    uint32_t done[MAX_ENGINES] = {};
    void add(uint32_t source, uint32_t engine, uint64_t addr, uint64_t mask, const void* data, size_t bytes) {
        events.push_back({});
        Event& e = events.back();
        e.cycle = cycle; e.addr = addr; e.mask = mask; e.source = source; e.ordinal = done[engine];
        if (bytes) { std::memcpy(e.data, data, bytes); }
    }
};

static void log_events(MODEL& model, Log& log);
extern const uint32_t STORE_SOURCE, STORE_ENGINE;

// -- bench -----------------------------------------------------------------------------------------------------------

// What a channel offered in a cycle in which it was not taken, to see that it stays.
struct Held {
    bool valid = false;
    uint64_t head[4] = {};
    uint8_t data[BUS_BYTES] = {};
};

struct Burst { uint64_t addr; unsigned beats, done; uint64_t ready; unsigned response; };
struct Beat { uint8_t data[BUS_BYTES]; uint64_t strobe; bool last; };

class Bench {
public:
    explicit Bench(const Settings& settings) : set(settings), random_(settings.seed), threshold_(
        settings.stall >= 1.0 ? ~0ull : static_cast<uint64_t>(settings.stall * 18446744073709551615.0)) {
        context_ = std::make_unique<VerilatedContext>();
        context_->randReset(0);
#if VM_TRACE
        context_->traceEverOn(true);
#endif
        top = std::make_unique<MODEL>(context_.get());
        hard_reset();
    }
    ~Bench() {
#if VM_TRACE
        if (wave_) { wave_->close(); }
#endif
        top->final();
    }

    void hard_reset() {
        reads_.clear(); writes_.clear(); beats_.clear();
        aw_ = ar_ = w_ = Held{};
        AXI(awready) = AXI(wready) = AXI(arready) = AXI(bvalid) = AXI(rvalid) = 0;
        CSR(awvalid) = CSR(wvalid) = CSR(arvalid) = CSR(bready) = CSR(rready) = 0;
        top->rst = 1;
        top->clk = 0;
        top->eval();
        quiet_ = true;
        for (int i = 0; i < 4; ++i) { step(); }
        if (AXI(awvalid) || AXI(wvalid) || AXI(arvalid)) { fail("AXI: a valid signal is high during reset"); }
        quiet_ = false;
        top->rst = 0;
        top->eval();
    }

    void step() {
        // Sample.
        const bool aw = AXI(awvalid) && AXI(awready), w = AXI(wvalid) && AXI(wready), ar = AXI(arvalid) && AXI(arready);
        const bool b = AXI(bvalid) && AXI(bready), r = AXI(rvalid) && AXI(rready);
        if (!quiet_) { check(); }
        if (aw) { writes_.push_back({AXI(awaddr), unsigned(AXI(awlen)) + 1, 0, 0, 0}); }
        if (ar) { reads_.push_back({AXI(araddr), unsigned(AXI(arlen)) + 1, 0, cycle + set.latency, 0}); }
        if (w) {
            Beat beat{};
            std::memcpy(beat.data, &AXI(wdata), BUS_BYTES);
            beat.strobe = AXI(wstrb);
            beat.last = AXI(wlast);
            beats_.push_back(beat);
        }
        if (log.on) { log.cycle = cycle; log_events(*top, log); }
#if VM_TRACE
        const bool dump = wave_ && cycle >= wave_first_ && cycle < wave_last_;
        if (dump) { wave_->dump(2 * cycle); }
#endif
        top->clk = 1;
        top->eval();
#if VM_TRACE
        if (dump) { wave_->dump(2 * cycle + 1); }
#endif
        ++cycle;
        if (!quiet_) { drive(b, r); }
        top->clk = 0;
        top->eval();
    }

    void run(uint64_t cycles) { for (uint64_t i = 0; i < cycles; ++i) { step(); } }

    uint32_t csr_read(uint32_t addr, unsigned* response) {
        CSR(araddr) = addr; CSR(arvalid) = 1; CSR(rready) = 1;
        top->eval();
        uint32_t value = 0;
        bool done = false;
        for (int i = 0; !done; ++i) {
            if (i == CSR_TIMEOUT) { fail("AXI4-Lite: a CSR read was not answered"); }
            const bool taken = CSR(arvalid) && CSR(arready);
            if ((done = CSR(rvalid) && CSR(rready))) { value = CSR(rdata); *response = CSR(rresp); }
            step();
            if (taken) { CSR(arvalid) = 0; }
            if (done) { CSR(rready) = 0; }
            top->eval();
        }
        return value;
    }

    unsigned csr_write(uint32_t addr, uint32_t value) {
        CSR(awaddr) = addr; CSR(awvalid) = 1; CSR(wdata) = value; CSR(wstrb) = 15; CSR(wvalid) = 1; CSR(bready) = 1;
        top->eval();
        unsigned response = 0;
        bool done = false;
        for (int i = 0; !done; ++i) {
            if (i == CSR_TIMEOUT) { fail("AXI4-Lite: a CSR write was not answered"); }
            const bool address = CSR(awvalid) && CSR(awready), data = CSR(wvalid) && CSR(wready);
            if ((done = CSR(bvalid) && CSR(bready))) { response = CSR(bresp); }
            step();
            if (address) { CSR(awvalid) = 0; }
            if (data) { CSR(wvalid) = 0; }
            if (done) { CSR(bready) = 0; }
            top->eval();
        }
        return response;
    }

    // Until no bit of `mask` is set in register `addr`, which is read every POLL cycles. False: out of time.
    bool wait(uint32_t addr, uint32_t mask, uint64_t limit) {
        const uint64_t end = limit ? cycle + limit : ~0ull;
        for (;;) {
            unsigned response = 0;
            if (!(csr_read(addr, &response) & mask)) { return true; }
            if (cycle >= end) { return false; }
            run(std::min<uint64_t>(POLL, end - cycle));
        }
    }

#if VM_TRACE
    void waveform(const char* path, uint64_t first, uint64_t last) {
        wave_ = std::make_unique<Wave>();
        top->trace(wave_.get(), 99);
        wave_->open(path);
        wave_first_ = first;
        wave_last_ = last;
    }
#endif

    [[noreturn]] void fail(const std::string& what) { throw Problem{what + " (cycle " + std::to_string(cycle) + ")"}; }

    Settings set;
    Memory memory;
    Log log;
    std::vector<Fault> faults;
    std::unique_ptr<VerilatedContext> context_;  // before `top`: a model must die before its context, or it waits for ever
    std::unique_ptr<MODEL> top;
    uint64_t cycle = 0;

private:
    static constexpr int CSR_TIMEOUT = 10000;
    static constexpr uint64_t POLL = 64;

    bool stall() {
        if (!threshold_) { return false; }
        // splitmix64
        uint64_t z = (random_ += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return (z ^ (z >> 31)) < threshold_;
    }

    unsigned response(uint64_t addr, bool write) const {
        if (addr >= set.memory_bytes || set.memory_bytes - addr < BUS_BYTES) { return 3; }
        for (const Fault& f : faults) {
            if ((write ? f.write : f.read) && addr + BUS_BYTES > f.first && addr <= f.last) { return f.response; }
        }
        return 0;
    }

    static uint64_t beat_addr(const Burst& b) { return (b.addr & ~uint64_t(BUS_BYTES - 1)) + uint64_t(b.done) * BUS_BYTES; }

    void hold(const char* name, Held& held, bool valid, bool ready, const Held& now) {
        if (held.valid) {
            if (!valid) { fail(std::string("AXI: ") + name + "VALID fell before " + name + "READY"); }
            if (std::memcmp(held.head, now.head, sizeof now.head) || std::memcmp(held.data, now.data, sizeof now.data)) {
                fail(std::string("AXI: the payload of ") + name + " changed while it waited for " + name + "READY");
            }
        }
        held = now;
        held.valid = valid && !ready;
    }

    void burst(const char* name, uint64_t addr, unsigned len, unsigned size, unsigned type) {
        if (type != 1) { fail(std::string("AXI: ") + name + "BURST is not INCR"); }
        if ((1u << size) != BUS_BYTES) { fail(std::string("AXI: ") + name + "SIZE is not the bus width"); }
        const uint64_t first = addr & ~uint64_t(BUS_BYTES - 1), last = first + uint64_t(len + 1) * BUS_BYTES - 1;
        if (first >> 12 != last >> 12) { fail(std::string("AXI: a burst on ") + name + " crosses a 4 KiB boundary"); }
    }

    void check() {
        Held now;
        if (AXI(awvalid) || aw_.valid) {
            now.head[0] = AXI(awaddr); now.head[1] = AXI(awlen); now.head[2] = AXI(awsize); now.head[3] = AXI(awburst);
            hold("AW", aw_, AXI(awvalid), AXI(awready), now);
            if (AXI(awvalid)) { burst("AW", AXI(awaddr), AXI(awlen), AXI(awsize), AXI(awburst)); }
        }
        if (AXI(arvalid) || ar_.valid) {
            now.head[0] = AXI(araddr); now.head[1] = AXI(arlen); now.head[2] = AXI(arsize); now.head[3] = AXI(arburst);
            hold("AR", ar_, AXI(arvalid), AXI(arready), now);
            if (AXI(arvalid)) { burst("AR", AXI(araddr), AXI(arlen), AXI(arsize), AXI(arburst)); }
        }
        if (AXI(wvalid) || w_.valid) {
            now.head[0] = AXI(wstrb); now.head[1] = AXI(wlast); now.head[2] = now.head[3] = 0;
            std::memcpy(now.data, &AXI(wdata), BUS_BYTES);
            hold("W", w_, AXI(wvalid), AXI(wready), now);
        }
    }

    void drive(bool b, bool r) {
        const uint32_t rate = set.bytes_per_cycle;
        // Writes: beats that belong to a known burst take effect in order.
        while (!beats_.empty()) {
            auto it = std::find_if(writes_.begin(), writes_.end(), [](const Burst& x) { return x.done < x.beats; });
            if (it == writes_.end()) { break; }
            const Beat& beat = beats_.front();
            const uint64_t addr = beat_addr(*it);
            if (beat.last != (it->done + 1 == it->beats)) { fail("AXI: WLAST is not with the last beat of its burst"); }
            const unsigned answer = response(addr, true);
            if (answer) {
                it->response = std::max(it->response, answer);
            } else {
                uint8_t* to = memory.at(addr);  // beats are aligned, so they never cross a page
                for (unsigned i = 0; i < BUS_BYTES; ++i) { if (beat.strobe >> i & 1) { to[i] = beat.data[i]; } }
                if (log.on && log.writes) { log.add(STORE_SOURCE, STORE_ENGINE, addr, beat.strobe, beat.data, BUS_BYTES); }
            }
            if (++it->done == it->beats) { it->ready = cycle + set.latency; }
            beats_.pop_front();
        }
        if (b) { writes_.pop_front(); AXI(bvalid) = 0; }
        if (!AXI(bvalid) && !writes_.empty() && writes_[0].done == writes_[0].beats && cycle >= writes_[0].ready && !stall()) {
            AXI(bvalid) = 1;
            AXI(bid) = 0;
            AXI(bresp) = writes_[0].response;
        }
        write_credit_ = std::min<uint64_t>(write_credit_ + rate, 2 * BUS_BYTES);
        AXI(awready) = writes_.size() < set.outstanding && !stall();
        const bool room = beats_.size() < set.outstanding && write_credit_ >= BUS_BYTES && !stall();
        if (room) { write_credit_ -= BUS_BYTES; }
        AXI(wready) = room;
        // Reads.
        read_credit_ = std::min<uint64_t>(read_credit_ + rate, 2 * BUS_BYTES);
        if (r) {
            AXI(rvalid) = 0;
            if (++reads_[0].done == reads_[0].beats) { reads_.pop_front(); }
        }
        if (!AXI(rvalid) && !reads_.empty() && cycle >= reads_[0].ready && read_credit_ >= BUS_BYTES && !stall()) {
            const uint64_t addr = beat_addr(reads_[0]);
            const unsigned answer = response(addr, false);
            read_credit_ -= BUS_BYTES;
            AXI(rvalid) = 1;
            AXI(rid) = 0;
            AXI(rresp) = answer;
            AXI(rlast) = reads_[0].done + 1 == reads_[0].beats;
            if (answer) { std::memset(&AXI(rdata), 0, BUS_BYTES); }
            else { std::memcpy(&AXI(rdata), memory.at(addr), BUS_BYTES); }
        }
        AXI(arready) = reads_.size() < set.outstanding && !stall();
    }

    uint64_t random_, threshold_;
    std::deque<Burst> reads_, writes_;
    std::deque<Beat> beats_;
    Held aw_, ar_, w_;
    uint64_t read_credit_ = 0, write_credit_ = 0;
    bool quiet_ = false;
#if VM_TRACE
    std::unique_ptr<Wave> wave_;
    uint64_t wave_first_ = 0, wave_last_ = ~0ull;
#endif
};

// -- interface to Python ------------------------------------------------------------------------------------------------

struct Handle {
    std::unique_ptr<Bench> bench;
    std::string error;
};

// Runs f; after a broken rule the handle's error is set and -1 returned.
template <class F> static int64_t guard(Handle* h, F f) {
    try { return f(*h->bench); }
    catch (const Problem& p) { h->error = p.text; return -1; }
    catch (const std::exception& e) { h->error = e.what(); return -1; }
}

extern "C" {
Handle* sim_new(const Settings* settings) {
    auto* h = new Handle;
    try { h->bench = std::make_unique<Bench>(*settings); }
    catch (const Problem& p) { h->error = p.text; }
    return h;
}
void sim_delete(Handle* h) { delete h; }
const char* sim_error(Handle* h) { return h->error.c_str(); }
void sim_write(Handle* h, uint64_t addr, const uint8_t* data, uint64_t size) {
    h->bench->memory.each(addr, size, [&](uint8_t* p, uint64_t at, uint64_t n) { std::memcpy(p, data + at, n); });
}
void sim_read(Handle* h, uint64_t addr, uint8_t* data, uint64_t size) {
    h->bench->memory.each(addr, size, [&](uint8_t* p, uint64_t at, uint64_t n) { std::memcpy(data + at, p, n); });
}
int64_t sim_csr_read(Handle* h, uint32_t addr, unsigned* response) {
    return guard(h, [&](Bench& b) -> int64_t { return b.csr_read(addr, response); });
}
int64_t sim_csr_write(Handle* h, uint32_t addr, uint32_t value) {
    return guard(h, [&](Bench& b) -> int64_t { return b.csr_write(addr, value); });
}
int64_t sim_run(Handle* h, uint64_t cycles) { return guard(h, [&](Bench& b) -> int64_t { b.run(cycles); return 0; }); }
int64_t sim_wait(Handle* h, uint32_t addr, uint32_t mask, uint64_t limit) {
    return guard(h, [&](Bench& b) -> int64_t { return b.wait(addr, mask, limit); });
}
uint64_t sim_cycle(Handle* h) { return h->bench->cycle; }
void sim_fault(Handle* h, uint64_t first, uint64_t last, unsigned response, int read, int write) {
    if (!response) { h->bench->faults.clear(); }
    else { h->bench->faults.push_back({first, last, response, read != 0, write != 0}); }
}
void sim_log(Handle* h, int on, int writes) {
    Log& log = h->bench->log;
    log.on = on != 0;
    log.writes = writes != 0;
    log.events.clear();
    std::memset(log.done, 0, sizeof log.done);
}
void sim_log_clear(Handle* h) { h->bench->log.events.clear(); }
uint64_t sim_log_size(Handle* h) { return h->bench->log.events.size(); }
const void* sim_log_data(Handle* h) { return h->bench->log.events.data(); }
// The model alone, with nothing driven: the upper bound of speed.
void sim_spin(Handle* h, uint64_t cycles) {
    MODEL& top = *h->bench->top;
    for (uint64_t i = 0; i < cycles; ++i) { top.clk = 1; top.eval(); top.clk = 0; top.eval(); }
}
#if VM_TRACE
void sim_waveform(Handle* h, const char* path, uint64_t first, uint64_t last) { h->bench->waveform(path, first, last); }
#endif
}
