"""ULX3S with an LFE5U-85F: 25 MHz oscillator, 32 MiB SDRAM of 16 bits, serial line over the FTDI chip."""
