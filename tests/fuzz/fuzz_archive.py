"""Zip archives: torch zip, .npz and .pt2, whole files, through the preflight and through locate."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["collapsekit", "zipfile"]):
    from tests.fuzz import harness, mutate, seeds
    from tests.fuzz.invariant import check_archive, check_locate

FILE = harness.scratch() / "m.pt"


def one(data: bytes) -> None:
    FILE.write_bytes(data)
    check_archive(FILE)
    check_locate(FILE)


def main() -> None:
    configs = [json.dumps(c).encode() for c in seeds.pt2_configs()]
    made = [
        f
        for with_sums in (True, False)
        for f in (
            *seeds.torch_zips(with_sums),
            *seeds.npzs(with_sums),
            *(seeds.pt2(c, with_sums) for c in configs),
        )
    ]
    harness.fuzz(one, [*made, *seeds.saved_by_torch()], mutate.zipped)


if __name__ == "__main__":
    main()
