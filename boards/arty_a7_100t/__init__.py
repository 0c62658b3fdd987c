"""Digilent Arty A7-100T: 100 MHz oscillator, memory on the FPGA, serial line over the FTDI chip."""
