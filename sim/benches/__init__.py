"""cocotb test benches: each engine, and the whole core, on the Verilated hardware against the reference
machine.

`run.run_bench` builds and runs one; ``python -m systolith.sim.benches`` does so from a shell. The modules
``bench_*`` are the benches themselves and are imported by cocotb inside the simulation.
"""
