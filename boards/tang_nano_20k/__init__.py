"""Tang Nano 20K with a GW2AR-18C: 27 MHz oscillator, 8 MiB SDRAM of 32 bits in the FPGA's package, serial
line over the BL616."""
