// An SDR SDRAM chip that checks every rule of its data sheet: timing, start-up, refresh, who drives the data pins.
//
// step() is a rising edge of the chip's clock. It takes the pins at this edge and returns what the chip drives until the next. The first rule that is
// broken stays in `problem`, as text. Not modelled, and reported as broken rules: clock suspend, auto precharge, burst
// terminate, bursts that another command cuts short.
//
// Contents: row, bank, column, byte from the top of the address, sparse.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include "memory.h"

struct SdramTiming {  // as systolith.hw.soc.sdram_chip.SdramTiming; times in ns
    uint32_t bits, rows, columns, banks, cas_latency;
    uint32_t pin_cycles;  // cycles that the data is late behind registered pins
    double clock_hz, t_rcd, t_rp, t_ras, t_rc, t_rfc, t_rrd, t_wr, t_ras_max, refresh, power_up;
};

struct SdramPins {
    uint32_t clk_en, cs, ras, cas, we, ba, a, dqm, dq_o, dq_oe;
};

class SdramChip {
public:
    explicit SdramChip(const SdramTiming& timing) : set(timing), period_(1e9 / timing.clock_hz) {}

    uint32_t step(const SdramPins& pins) {
        ++now_;
        if (!pins.clk_en && now_ * period_ > set.power_up) { fail("CKE", "is low"); }
        if (pins.dq_oe && now_ <= driven_ + 1) { fail("DQ", "is driven by both sides, or without a cycle between them"); }
        const unsigned code = pins.cs ? pins.ras << 2 | pins.cas << 1 | pins.we : 0;
        if (code && now_ * period_ < set.power_up) { fail(NAMES[code], "comes before the end of power-up"); }
        switch (code) {
            case 0: break;
            case 1: fail("BURST TERMINATE", "is not modelled"); break;
            case 2: column(pins, false); break;
            case 3: column(pins, true); break;
            case 4: activate(pins); break;
            case 5: precharge(pins); break;
            case 6: refresh(); break;
            case 7: set_mode(pins); break;
        }
        write_word(pins);
        // DQM hides the word that is taken two edges later.
        masks_[(now_ + 1 + set.pin_cycles) % PIPE] = pins.dqm;
        if (ready_) {
            // One may wait for what is under way; two may not.
            const double owed = (now_ - started_) * period_ / set.refresh - double(refreshes - first_);
            if (owed > 2.0) { fail("REFRESH", "is missing: two are due"); }
        }
        return read_word();
    }

    // Power off and on; contents and counts stay, so that a reset of the whole design costs a simulation nothing.
    void restart() {
        const uint64_t counts[] = {activates, refreshes, reads, writes};
        Memory kept = std::move(memory);
        *this = SdramChip(set);
        memory = std::move(kept);
        activates = counts[0]; refreshes = counts[1]; reads = counts[2]; writes = counts[3];
        powered_ = first_ = refreshes;
    }

    SdramTiming set;
    Memory memory;
    std::string problem;
    uint64_t activates = 0, refreshes = 0, reads = 0, writes = 0;

private:
    static constexpr unsigned MAX_BANKS = 4, MAX_WORDS = 8, PIPE = 32, FIRST_REFRESHES = 8;
    static constexpr int64_t NEVER = -(1ll << 40);
    static constexpr const char* NAMES[] = {"NOP", "BURST TERMINATE", "READ", "WRITE", "ACTIVE", "PRECHARGE", "REFRESH", "MODE REGISTER SET"};

    struct Bank {
        bool open = false;
        uint32_t row = 0;
        int64_t activated = NEVER, closed = NEVER, read_end = NEVER, written = NEVER;
    };

    void fail(const std::string& what, const std::string& why) {
        if (problem.empty()) { problem = "SDRAM: " + what + " " + why + " (cycle " + std::to_string(now_) + ")"; }
    }

    // `event` must be at least so long, and so many cycles, ago.
    void apart(const char* what, const char* rule, int64_t event, double ns, int64_t cycles = 1) {
        const int64_t passed = now_ - event;
        if (passed < cycles || passed * period_ < ns - 1e-3) {
            char text[128];
            std::snprintf(text, sizeof text, "breaks %s: %lld cycles, %.1f ns", rule, static_cast<long long>(passed), passed * period_);
            fail(what, text);
        }
    }

    void rested(const char* what) {
        apart(what, "tRFC", refreshed_, set.t_rfc);
        apart(what, "tMRD", mode_set_, 0, 2);
    }

    void all_closed(const char* what) {
        for (unsigned b = 0; b < set.banks; ++b) {
            if (banks_[b].open) { fail(what, "while bank " + std::to_string(b) + " is open"); }
            apart(what, "tRP", banks_[b].closed, set.t_rp);
            apart(what, "tRC", banks_[b].activated, set.t_rc);
        }
        if (!precharged_) { fail(what, "before PRECHARGE of all banks"); }
    }

    void activate(const SdramPins& pins) {
        Bank& bank = banks_[pins.ba];
        if (!ready_) { fail("ACTIVE", "before the mode is set"); }
        if (bank.open) { fail("ACTIVE", "of bank " + std::to_string(pins.ba) + ", which is open"); }
        if (pins.a >= set.rows) { fail("ACTIVE", "of a row past the last"); }
        rested("ACTIVE");
        apart("ACTIVE", "tRP", bank.closed, set.t_rp);
        apart("ACTIVE", "tRC", bank.activated, set.t_rc);
        for (unsigned b = 0; b < set.banks; ++b) { if (b != pins.ba) { apart("ACTIVE", "tRRD", banks_[b].activated, set.t_rrd, 2); } }
        bank.open = true;
        bank.row = pins.a;
        bank.activated = now_;
        ++activates;
    }

    void precharge(const SdramPins& pins) {
        const bool all = pins.a >> 10 & 1;
        rested("PRECHARGE");
        for (unsigned b = 0; b < set.banks; ++b) {
            Bank& bank = banks_[b];
            if (!all && b != pins.ba) { continue; }
            if (!bank.open) { continue; }
            apart("PRECHARGE", "tRAS", bank.activated, set.t_ras);
            if ((now_ - bank.activated) * period_ > set.t_ras_max) { fail("PRECHARGE", "breaks the longest tRAS"); }
            apart("PRECHARGE", "tWR", bank.written, set.t_wr, 2);
            if (now_ < bank.read_end) { fail("PRECHARGE", "cuts a READ short"); }
            bank.open = false;
            bank.closed = now_;
        }
        if (all) { precharged_ = true; }
    }

    void refresh() {
        rested("REFRESH");
        all_closed("REFRESH");
        refreshed_ = now_;
        ++refreshes;
    }

    void set_mode(const SdramPins& pins) {
        rested("MODE REGISTER SET");
        all_closed("MODE REGISTER SET");
        if (refreshes - powered_ < FIRST_REFRESHES) { fail("MODE REGISTER SET", "before eight times REFRESH"); }
        words_ = 1u << (pins.a & 7);
        cas_ = pins.a >> 4 & 7;
        if (words_ > MAX_WORDS || (pins.a & 8) || cas_ != set.cas_latency || pins.a >> 7 || pins.ba) {
            fail("MODE REGISTER SET", "with a mode that is not modelled, or another CAS latency than " + std::to_string(set.cas_latency));
        }
        mode_set_ = now_;
        ready_ = true;
        started_ = now_;
        first_ = refreshes;
    }

    void column(const SdramPins& pins, bool write) {
        const char* what = write ? "WRITE" : "READ";
        Bank& bank = banks_[pins.ba];
        if (!bank.open) { fail(what, "in bank " + std::to_string(pins.ba) + ", which is closed"); return; }
        apart(what, "tRCD", bank.activated, set.t_rcd);
        if (now_ < burst_end_) { fail(what, "cuts a burst short"); }
        if (pins.a >> 10 & 1) { fail(what, "with auto precharge is not modelled"); }
        if ((pins.a & 1023) >= set.columns || pins.a >> 11) { fail(what, "of a column past the last"); }
        burst_end_ = now_ + words_;
        const uint64_t row = (uint64_t(bank.row) * set.banks + pins.ba) * set.columns;
        // A burst wraps in its block of columns.
        const uint32_t first = pins.a & ~(words_ - 1), skip = pins.a & (words_ - 1);
        if (write) {
            ++writes;
            write_left_ = words_;
            bank.written = now_ + words_ - 1;
            for (unsigned i = 0; i < words_; ++i) { write_at_[i] = (row + first + ((skip + i) & (words_ - 1))) * bytes(); }
            return;
        }
        ++reads;
        bank.read_end = now_ + words_;
        for (unsigned i = 0; i < words_; ++i) {
            Word& word = pipe_[(now_ + cas_ - 1 + set.pin_cycles + i) % PIPE];
            std::memcpy(&word.value, memory.at((row + first + ((skip + i) & (words_ - 1))) * bytes()), bytes());
            word.at = now_ + cas_ - 1 + set.pin_cycles + i;
        }
        // The words are on the pins until edge `driven_`; registers behind the pins do not change that.
        driven_ = now_ + cas_ + words_ - 1;
    }

    void write_word(const SdramPins& pins) {
        if (!write_left_) {
            return;
        }
        if (!pins.dq_oe) { fail("WRITE", "without data on DQ"); }
        uint8_t* to = memory.at(write_at_[words_ - write_left_]);
        for (unsigned i = 0; i < bytes(); ++i) { if (!(pins.dqm >> i & 1)) { to[i] = uint8_t(pins.dq_o >> 8 * i); } }
        --write_left_;
    }

    uint32_t read_word() {
        const Word& word = pipe_[now_ % PIPE];
        // Where nobody drives: anything.
        uint32_t value = uint32_t(uint64_t(now_) * 0x9E3779B97F4A7C15ull >> 32);
        for (unsigned i = 0; i < bytes(); ++i) {
            const uint32_t byte = 255u << 8 * i;
            if (word.at == now_ && !(masks_[now_ % PIPE] >> i & 1)) { value = (value & ~byte) | (word.value & byte); }
        }
        return set.bits == 32 ? value : value & 0xFFFF;
    }

    unsigned bytes() const { return set.bits / 8; }

    struct Word { int64_t at = NEVER; uint32_t value = 0; };

    double period_;
    int64_t now_ = 0, refreshed_ = NEVER, mode_set_ = NEVER, burst_end_ = NEVER, driven_ = NEVER, started_ = 0;
    bool precharged_ = false, ready_ = false;
    unsigned words_ = 1, cas_ = 2, write_left_ = 0;
    uint64_t write_at_[MAX_WORDS] = {}, powered_ = 0, first_ = 0;
    Bank banks_[MAX_BANKS];
    Word pipe_[PIPE];
    uint32_t masks_[PIPE] = {};
};
