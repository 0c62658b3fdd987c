// The SDRAM chip for Python, which steps it once a clock. In front of this file: memory.h and sdram.h.

extern "C" {
SdramChip* sdram_new(const SdramTiming* timing) { return new SdramChip(*timing); }
void sdram_delete(SdramChip* chip) { delete chip; }
uint32_t sdram_step(SdramChip* chip, const SdramPins* pins) { return chip->step(*pins); }
const char* sdram_problem(SdramChip* chip) { return chip->problem.c_str(); }
void sdram_restart(SdramChip* chip) { chip->restart(); }
void sdram_counts(SdramChip* chip, uint64_t* counts) {
    counts[0] = chip->activates; counts[1] = chip->refreshes; counts[2] = chip->reads; counts[3] = chip->writes;
}
void sdram_write(SdramChip* chip, uint64_t addr, const uint8_t* data, uint64_t size) {
    chip->memory.each(addr, size, [&](uint8_t* p, uint64_t at, uint64_t n) { std::memcpy(p, data + at, n); });
}
void sdram_read(SdramChip* chip, uint64_t addr, uint8_t* data, uint64_t size) {
    chip->memory.each(addr, size, [&](uint8_t* p, uint64_t at, uint64_t n) { std::memcpy(data + at, p, n); });
}
}
