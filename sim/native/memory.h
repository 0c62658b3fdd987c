// Sparse memory; bytes never written read as zero.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <unordered_map>

class Memory {
public:
    uint8_t* at(uint64_t addr) {
        const uint64_t page = addr >> BITS;
        if (page != last_) {
            auto& slot = pages_[page];
            if (!slot) { slot = std::make_unique<uint8_t[]>(1 << BITS); }
            last_ = page;
            data_ = slot.get();
        }
        return data_ + (addr & ((1u << BITS) - 1));
    }
    template <class F> void each(uint64_t addr, uint64_t size, F f) {
        for (uint64_t done = 0; done < size;) {
            const uint64_t left = (1u << BITS) - ((addr + done) & ((1u << BITS) - 1));
            const uint64_t n = std::min(left, size - done);
            f(at(addr + done), done, n);
            done += n;
        }
    }
private:
    static constexpr int BITS = 16;
    std::unordered_map<uint64_t, std::unique_ptr<uint8_t[]>> pages_;
    uint64_t last_ = ~0ull;
    uint8_t* data_ = nullptr;
};
