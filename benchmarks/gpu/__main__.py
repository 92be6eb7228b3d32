"""Whether everything that is trained and measured on a device comes out as on the CPU; one line a check.

    python -m benchmarks.gpu --device cuda          # needs a GPU; about as long as on the CPU
    python -m benchmarks.gpu --device cpu           # the CPU beside itself: whether the script runs
    python -m benchmarks.gpu --device cuda quick    # the checks whose names hold "quick"

It exits 1 where a number differs by more than is allowed, relative to its size where that is over 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.checks import make_checks, named, run_check

MEASURED, TRAINED = 1e-3, 5e-2  # allowed: rounding differs, and grows in training


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="as for collapsekit diagnose (default: cuda)")
    parser.add_argument("--list", action="store_true", help="name the checks and do none")
    parser.add_argument("names", nargs="*", help="parts of the names of the checks to do (default: all)")
    asked = parser.parse_args()
    checks = named(make_checks(), asked.names)
    if asked.list or not checks:
        print("\n".join(c.name for c in checks) or "no check has such a name: --list shows them")
        return 0 if checks else 2
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for check in checks:
            start = time.perf_counter()
            outcome = run_check(check, asked.device, Path(folder), TRAINED if check.trained else MEASURED)
            failed += not outcome.passed
            said = f"{outcome.numbers} numbers, largest difference {outcome.worst:.1e}"
            said = said if outcome.passed else f"{len(outcome.odd)} differ: {'; '.join(outcome.odd[:3])}"
            mark = "ok  " if outcome.passed else "FAIL"
            print(f"{mark} {check.name}: {said} ({time.perf_counter() - start:.1f} s)", flush=True)
    where = torch.cuda.get_device_name(asked.device) if asked.device.startswith("cuda") else asked.device
    print(f"{len(checks) - failed} of {len(checks)} checks agree on {where}, torch {torch.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
