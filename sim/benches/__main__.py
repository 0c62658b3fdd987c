"""``python -m systolith.sim.benches vector --arch array8 --seed 5``: one bench from a shell."""

from __future__ import annotations

import argparse
import sys

from systolith.sim.benches.run import BenchFailure, BenchSettings, run_bench
from systolith.sim.benches.tops import BENCHES
from systolith.spec.arch import load_arch
from systolith.spec.errors import SystolithError


def main() -> int:
    """Run one bench; the exit status is 0 where it passes."""
    parser = argparse.ArgumentParser(prog="python -m systolith.sim.benches", description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--arch", default="tiny", help="preset or TOML file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=24, help="instructions per test; inferences for core")
    parser.add_argument("--image", help="compiled image, which core needs")
    given = parser.parse_args()
    if given.bench == "core" and given.image is None:
        parser.error("core needs --image: compile a model first")
    try:
        passed = run_bench(
            given.bench, BenchSettings(load_arch(given.arch), given.seed, given.count, given.image)
        )
    except (BenchFailure, SystolithError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"bench {given.bench}, seed {given.seed}: {passed} tests passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
