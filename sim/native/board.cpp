// Test bench of a whole board, driven from Python through the extern "C" functions at the end: the host's side of the serial line,
// bit by bit, and the SDRAM chip where the board has one.
//
// Python puts in front of this file: memory.h and sdram.h where the board has such a chip, the model's header and MODEL (its class), HAS_SDRAM, and VM_TRACE.
//
// A cycle: outputs are sampled while the clock is low; rising edge; then line and chip compute their inputs for the next cycle
// from what was sampled. No input depends combinationally on an output.

struct Problem { std::string text; };

// The host's side of a line: 8 bits, one start bit, one stop bit.
class Line {
public:
    explicit Line(unsigned divisor) : divisor_(divisor) {}

    // The level that the host drives in the next cycle.
    bool drive() {
        if (break_) { --break_; return false; }
        if (!timer_) {
            if (bits_ <= 1) {
                if (to_send.empty()) { return true; }
                // The stop bit, and behind it the end mark.
                bits_ = 3u << 9 | unsigned(to_send.front()) << 1;
                to_send.pop_front();
            }
            timer_ = divisor_;
            level_ = bits_ & 1;
            bits_ >>= 1;
        }
        --timer_;
        return level_;
    }

    // The level that the board drives in this cycle; true if it completes a byte.
    bool sample(bool level) {
        if (!busy_) {
            if (!level) { busy_ = true; age_ = 0; received_ = 0; }
            else { return false; }
        }
        // In the middle of each bit.
        if (age_ % divisor_ == divisor_ / 2) {
            const unsigned bit = age_ / divisor_;
            if (bit == 0) { if (level) { busy_ = false; return false; } }
            else if (bit <= 8) { received_ |= unsigned(level) << (bit - 1); }
            else {
                busy_ = false;
                if (!level) { throw Problem{"the board sent a byte without a stop bit"}; }
                got.push_back(uint8_t(received_));
                return true;
            }
        }
        ++age_;
        return false;
    }

    // The line is held low for so many cycles, whatever is being sent.
    void hold_low(uint64_t cycles) { break_ = cycles; }

    std::deque<uint8_t> to_send, got;

private:
    unsigned divisor_, timer_ = 0, bits_ = 0, age_ = 0, received_ = 0;
    uint64_t break_ = 0;
    bool level_ = true, busy_ = false;
};

struct Settings {
    uint32_t divisor;  // clock cycles per bit
#if HAS_SDRAM
    SdramTiming sdram;
#endif
};

class Board {
public:
    explicit Board(const Settings& settings) : line(settings.divisor)
#if HAS_SDRAM
        , chip(settings.sdram)
#endif
    {
        context_ = std::make_unique<VerilatedContext>();
        context_->randReset(0);
#if VM_TRACE
        context_->traceEverOn(true);
#endif
        top = std::make_unique<MODEL>(context_.get());
        top->rx = 1;
        reset();
    }
    ~Board() {
#if VM_TRACE
        if (wave_) { wave_->close(); }
#endif
        top->final();
    }

    // As the reset button: what memory holds stays.
    void reset() {
        top->rst = 1;
        top->clk = 0;
        top->eval();
        resetting_ = true;
        for (int i = 0; i < 4; ++i) { step(); }
        resetting_ = false;
        top->rst = 0;
        top->eval();
#if HAS_SDRAM
        chip.restart();
#endif
    }

    bool step() {
        const bool byte = !resetting_ && !cut && line.sample(top->tx);
#if HAS_SDRAM
        const SdramPins pins{top->pins___05Fclk_en, top->pins___05Fcs, top->pins___05Fras, top->pins___05Fcas, top->pins___05Fwe, top->pins___05Fba,
                             top->pins___05Fa & ~stuck, top->pins___05Fdqm, top->pins___05Fdq_o, top->pins___05Fdq_oe};
#endif
#if VM_TRACE
        if (wave_) { wave_->dump(2 * cycle); }
#endif
        top->clk = 1;
        top->eval();
#if VM_TRACE
        if (wave_) { wave_->dump(2 * cycle + 1); }
#endif
        ++cycle;
        top->rx = line.drive();
#if HAS_SDRAM
        if (!resetting_) {
            top->pins___05Fdq_i = chip.step(pins) & ~stuck_data;
            if (!chip.problem.empty()) { throw Problem{chip.problem}; }
        }
#endif
        top->clk = 0;
        top->eval();
        return byte;
    }

    // Until the board has sent a byte, or the cycles are over.
    void listen(uint64_t cycles) {
        while (line.got.empty() && cycles--) { step(); }
    }

#if VM_TRACE
    void waveform(const char* path) {
        wave_ = std::make_unique<Wave>();
        top->trace(wave_.get(), 99);
        wave_->open(path);
    }
#endif

    Line line;
#if HAS_SDRAM
    SdramChip chip;
    uint32_t stuck = 0, stuck_data = 0;  // address pins of the chip, and data pins of the controller, that are always low
#endif
    bool cut = false;  // what the board sends is lost
    uint64_t cycle = 0;

private:
    std::unique_ptr<VerilatedContext> context_;  // before `top`: a model must die before its context, or it waits for ever
    std::unique_ptr<MODEL> top;
    bool resetting_ = false;
#if VM_TRACE
    std::unique_ptr<Wave> wave_;
#endif
};

// -- interface to Python ------------------------------------------------------------------------------------------------

struct Handle {
    std::unique_ptr<Board> board;
    std::string error;
};

// Runs f; after a broken rule the handle's error is set and -1 returned.
template <class F> static int64_t guard(Handle* h, F f) {
    try { return f(*h->board); }
    catch (const Problem& p) { h->error = p.text; return -1; }
}

extern "C" {
Handle* board_new(const Settings* settings) {
    auto* h = new Handle;
    h->board = std::make_unique<Board>(*settings);
    return h;
}
void board_delete(Handle* h) { delete h; }
const char* board_error(Handle* h) { return h->error.c_str(); }
uint64_t board_cycle(Handle* h) { return h->board->cycle; }
void board_send(Handle* h, const uint8_t* data, uint64_t size) { h->board->line.to_send.insert(h->board->line.to_send.end(), data, data + size); }
// Bytes that came, at least one unless the cycles are over; returns how many.
int64_t board_receive(Handle* h, uint8_t* data, uint64_t size, uint64_t cycles) {
    return guard(h, [&](Board& b) -> int64_t {
        b.listen(cycles);
        const uint64_t n = std::min<uint64_t>(size, b.line.got.size());
        std::copy_n(b.line.got.begin(), n, data);
        b.line.got.erase(b.line.got.begin(), b.line.got.begin() + n);
        return n;
    });
}
int64_t board_run(Handle* h, uint64_t cycles) {
    return guard(h, [&](Board& b) -> int64_t { while (cycles--) { b.step(); } return 0; });
}
int64_t board_reset(Handle* h) { return guard(h, [](Board& b) -> int64_t { b.reset(); return 0; }); }
void board_hold_low(Handle* h, uint64_t cycles) { h->board->line.hold_low(cycles); }
void board_cut(Handle* h, int cut) { h->board->cut = cut != 0; }
#if HAS_SDRAM
void board_stuck(Handle* h, uint32_t address, uint32_t data) { h->board->stuck = address; h->board->stuck_data = data; }
void board_memory_write(Handle* h, uint64_t addr, const uint8_t* data, uint64_t size) {
    h->board->chip.memory.each(addr, size, [&](uint8_t* p, uint64_t at, uint64_t n) { std::memcpy(p, data + at, n); });
}
void board_memory_read(Handle* h, uint64_t addr, uint8_t* data, uint64_t size) {
    h->board->chip.memory.each(addr, size, [&](uint8_t* p, uint64_t at, uint64_t n) { std::memcpy(data + at, p, n); });
}
#endif
#if VM_TRACE
void board_waveform(Handle* h, const char* path) { h->board->waveform(path); }
#endif
}
