// The two functions of zlib that Verilator's FST writer calls, so that waveforms need no library of the system. Blocks are
// stored, not compressed; the writer then takes the original, which is smaller.
#ifndef SYSTOLITH_ZLIB_H
#define SYSTOLITH_ZLIB_H
#include <cstdint>
#include <cstring>

typedef unsigned char Bytef;
typedef unsigned long uLong;
typedef unsigned long uLongf;
#define Z_OK 0

inline uLong compressBound(uLong size) { return size + (size / 65535 + 1) * 5 + 6; }

// A zlib stream of stored blocks.
inline int compress2(Bytef* to, uLongf* size, const Bytef* from, uLong count, int) {
    Bytef* out = to;
    *out++ = 0x78;
    *out++ = 0x01;
    uint32_t a = 1, b = 0;
    for (uLong i = 0; i < count; ++i) { a = (a + from[i]) % 65521; b = (b + a) % 65521; }
    do {
        const unsigned n = count < 65535 ? static_cast<unsigned>(count) : 65535;
        *out++ = n == count;
        for (unsigned word : {n, ~n}) { *out++ = static_cast<Bytef>(word); *out++ = static_cast<Bytef>(word >> 8); }
        std::memcpy(out, from, n);
        out += n; from += n; count -= n;
    } while (count);
    for (uint32_t word : {b, a}) { *out++ = static_cast<Bytef>(word >> 8); *out++ = static_cast<Bytef>(word); }
    *size = static_cast<uLongf>(out - to);
    return Z_OK;
}
#endif
