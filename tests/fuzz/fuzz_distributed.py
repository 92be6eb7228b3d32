"""The .metadata pickle of torch.distributed.checkpoint, beside a sound file of pieces."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["collapsekit"]):
    from tests.fuzz import harness, mutate, seeds
    from tests.fuzz.invariant import check_locate

FOLDER = harness.scratch()
(FOLDER / seeds.PIECES).write_bytes(seeds.pieces())


def one(data: bytes) -> None:
    (FOLDER / ".metadata").write_bytes(data)
    check_locate(FOLDER)


def main() -> None:
    harness.fuzz(one, [seeds.metadata(), seeds.metadata(planned=False)], mutate.pickled)


if __name__ == "__main__":
    main()
