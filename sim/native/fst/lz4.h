// The two functions of LZ4 that Verilator's FST writer calls, so that waveforms need no library of the system: a greedy
// encoder of the LZ4 block format.
#ifndef SYSTOLITH_LZ4_H
#define SYSTOLITH_LZ4_H
#include <cstdint>
#include <cstring>
#include <vector>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

// Returns the bytes written; `to` must hold LZ4_compressBound(size).
inline int LZ4_compress_default(const char* from, char* to, int size, int) {
    const auto* in = reinterpret_cast<const uint8_t*>(from);
    auto* out = reinterpret_cast<uint8_t*>(to);
    const auto length = [&out](int n) {
        for (; n >= 255; n -= 255) { *out++ = 255; }
        *out++ = static_cast<uint8_t>(n);
    };
    const auto literals = [&](int first, int count, int match) {  // token, literals; `match` is the match's length minus 4
        *out++ = static_cast<uint8_t>((count < 15 ? count : 15) << 4 | (match < 15 ? match : 15));
        if (count >= 15) { length(count - 15); }
        std::memcpy(out, in + first, static_cast<size_t>(count));
        out += count;
    };
    std::vector<int> seen(1 << 14, -1);  // hash of four bytes to where they were seen last
    int anchor = 0;
    // The format wants the last match to begin 12 bytes before the end, and the last 5 bytes to be literals.
    for (int at = 0; at < size - 12;) {
        uint32_t word;
        std::memcpy(&word, in + at, 4);
        int& slot = seen[word * 2654435761u >> 18];
        const int back = slot;
        slot = at;
        if (back < 0 || at - back > 65535 || std::memcmp(in + back, in + at, 4)) { ++at; continue; }
        int match = 4;
        while (at + match < size - 5 && in[back + match] == in[at + match]) { ++match; }
        literals(anchor, at - anchor, match - 4);
        *out++ = static_cast<uint8_t>(at - back);
        *out++ = static_cast<uint8_t>((at - back) >> 8);
        if (match - 4 >= 15) { length(match - 4 - 15); }
        at += match;
        anchor = at;
    }
    literals(anchor, size - anchor, 0);
    return static_cast<int>(out - reinterpret_cast<uint8_t*>(to));
}
#endif
