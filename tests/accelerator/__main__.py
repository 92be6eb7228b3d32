"""Checks on the stand-in, in a process of its own, as it changes torch for good; a line of JSON each.

python -m tests.accelerator [--without-doubles] NAME ...
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.checks import make_checks, run_check
from tests.accelerator import standin
from tests.accelerator.counting import PASSES, STEPS
from tests.accelerator.own import OWN

ALSO = OWN | STEPS | PASSES
TOLERANCE = 1e-5  # of a number's size, where that is over 1: the same kernels compute both


class _Unfused(torch.optim.AdamW):
    """Of fused kernels there are none on the stand-in, and the CPU's round otherwise."""

    def __init__(self, *args: Any, fused: bool | None = None, **how: Any) -> None:
        super().__init__(*args, **how)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    standin.install()
    torch.optim.AdamW = _Unfused  # type: ignore[misc]
    doubles = nullcontext() if "--without-doubles" not in names else standin.without_doubles()
    with tempfile.TemporaryDirectory() as folder, doubles, sdpa_kernel(SDPBackend.MATH):
        for check in [c for c in make_checks() if c.name in names]:
            standin.COUNTED.clear()
            start = time.process_time()
            outcome = asdict(run_check(check, standin.NAME, Path(folder), TOLERANCE))
            _say(outcome | {"counted": standin.COUNTED, "seconds": time.process_time() - start})
        for name in names:
            if name in ALSO:
                _say({"name": name, "odd": _error_of(name, Path(folder))})


def _error_of(name: str, folder: Path) -> list[str]:
    try:
        ALSO[name](folder)
    except BaseException:  # noqa: BLE001 - pytest's failures too
        return [traceback.format_exc()]
    return []


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
