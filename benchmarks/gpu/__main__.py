"""Whether everything that is trained and measured on a device comes out as on the CPU, and how fast; one line a part.

    python -m benchmarks.gpu --minutes 8 -o figures.json    # needs a GPU; what is most worth knowing first
    python -m benchmarks.gpu --device cpu                   # the CPU beside itself: whether the script runs
    python -m benchmarks.gpu --device cuda quick            # the parts whose names hold "quick"

It exits 1 where a number differs by more than is allowed, relative to its size where that is over 1, or a part ended in an
error. No part is begun once the minutes are over; the file holds what was done by then, and names what was left out.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.checks import Check, make_checks, named, run_check
from benchmarks.gpu.speed import Speed, make_speeds
from collapsekit.io.files import write_atomic

MEASURED, TRAINED = 1e-3, 5e-2  # allowed: rounding differs, and grows in training
# What a GPU shows first: that a diagnosis, each kind of training, what resumes and bfloat16 agree. Speed is next.
FIRST = (
    *("diagnose linear, quick", "diagnose attention, quick", "repair finetune", "repair kd", "repair ebr"),
    *("repair rtf", "repair ebr, resumed", "repair dropout, --amp", "diagnose recurrent, quick"),
)
Part = Check | Speed


def make_parts() -> list[Part]:
    """Correctness that is most worth knowing, speed, and the rest of the checks."""
    checks = {c.name: c for c in make_checks()}
    return [*(checks.pop(name) for name in FIRST), *make_speeds(), *checks.values()]


def do_part(part: Part, device: str, folder: Path) -> dict[str, Any]:
    """Do one part; an error is an outcome, too."""
    start = time.perf_counter()
    if isinstance(part, Check):
        tolerance = TRAINED if part.trained else MEASURED
        outcome = run_check(part, device, folder, tolerance)
        found = {**asdict(outcome), "kind": "correctness", "tolerance": tolerance, "passed": outcome.passed}
    else:
        found = {"name": part.name, "kind": "speed", **_measured(part, device, folder)}
    return {**found, "seconds": round(time.perf_counter() - start, 2)}


def _measured(part: Speed, device: str, folder: Path) -> dict[str, Any]:
    try:
        return {"figures": part.figures(device, folder), "passed": True}
    except Exception as e:  # noqa: BLE001 - whatever it is, the next part goes on
        return {"figures": {}, "passed": False, "odd": [f"{type(e).__name__}: {e}"]}


def describe(part: dict[str, Any]) -> str:
    """One line of what became of a part."""
    if not part["passed"]:
        text = "; ".join(part["odd"][:3])
    elif part["kind"] == "speed":
        text = ", ".join(f"{k} {'not counted' if v is None else f'{v:.3g}'}" for k, v in part["figures"].items())
    else:
        text = f"{part['numbers']} numbers, largest difference {part['worst']:.1e}"
    return f"{'ok  ' if part['passed'] else 'FAIL'} {part['name']}: {text} ({part['seconds']:.1f} s)"


def _name_of(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="as for collapsekit diagnose (default: cuda)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no part after so many (default: no end)")
    parser.add_argument("-o", "--output", type=Path, help="write figures to this file, anew after each part")
    parser.add_argument("--list", action="store_true", help="name the parts in their order and do none")
    parser.add_argument("names", nargs="*", help="parts of the names of the parts to do (default: all)")
    asked = parser.parse_args()
    if not asked.minutes > 0:
        parser.error(f"--minutes is {asked.minutes:g}, expected more than 0: 8, for example.")
    parts = named(make_parts(), asked.names)
    if asked.list or not parts:
        print("\n".join(p.name for p in parts) or "no part has such a name: --list shows them")
        return 0 if parts else 2
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no CUDA device here: --device cpu shows whether the script runs")
        return 2
    start, done = time.monotonic(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        while len(done) < len(parts) and time.monotonic() - start < 60 * asked.minutes:
            done.append(do_part(parts[len(done)], asked.device, Path(folder)))
            print(describe(done[-1]), flush=True)
            if asked.output is not None:
                about = {"device": _name_of(asked.device), "torch": torch.__version__, "cuda": torch.version.cuda}
                left = {"left_out": [p.name for p in parts[len(done) :]]}
                write_atomic(
                    asked.output, json.dumps({**about, "parts": done, **left}, indent=1, allow_nan=False) + "\n"
                )
    sound = sum(p["passed"] for p in done)
    print(f"{sound} of {len(done)} parts agree on {_name_of(asked.device)}, torch {torch.__version__}")
    if len(done) < len(parts):
        print(f"left out as the time was over: {', '.join(p.name for p in parts[len(done) :])}")
    return 0 if sound == len(done) else 1


if __name__ == "__main__":
    raise SystemExit(main())
