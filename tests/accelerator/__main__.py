"""Checks on the stand-in, in a process of its own, as it changes torch for good; a line of JSON each.

python -m tests.accelerator [--without-doubles] NAME ...
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu.checks import make_checks, run_check
from tests.accelerator import standin

TOLERANCE = 1e-5  # the same kernels compute both, but in other layouts here and there


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    standin.install()
    doubles = nullcontext() if "--without-doubles" not in names else standin.without_doubles()
    with tempfile.TemporaryDirectory() as folder, doubles:
        for check in make_checks():
            if check.name in names:
                standin.COUNTED.clear()
                start = time.process_time()
                outcome = run_check(check, standin.NAME, Path(folder), TOLERANCE)
                took = time.process_time() - start
                print(json.dumps(asdict(outcome) | {"counted": standin.COUNTED, "seconds": took}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
