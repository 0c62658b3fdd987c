"""iCEBreaker with an iCE40 UP5K: 12 MHz oscillator, memory in the FPGA's SPRAM, serial line over the FTDI
chip."""
