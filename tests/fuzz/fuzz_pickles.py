"""Pickles: as the data.pkl of a torch zip, as the fourth pickle of a legacy file, and whole legacy files."""

from __future__ import annotations

import pickle
import random
import struct
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["collapsekit"]):
    from tests.fuzz import harness, mutate, seeds
    from tests.fuzz.invariant import check_locate
    from tests.hostile.assemble import FLOATS, MAGIC, SYSTEM, VERSION, good_members

FILE = harness.scratch() / "m.pt"
ZIP, FOURTH, WHOLE = 0, 1, 2  # an input's first byte, modulo 3
_BEFORE = b"".join(pickle.dumps(p, 2) for p in (MAGIC, VERSION, SYSTEM))
_BEHIND = pickle.dumps(["0"], 2) + struct.pack("<q", 4) + FLOATS


def one(data: bytes) -> None:
    kind, content = (data[0] % 3, data[1:]) if data else (ZIP, b"")
    if kind == ZIP:
        members = [("data.pkl", content), *good_members()[1:]]
        FILE.write_bytes(seeds.zipped([(f"archive/{n}", d) for n, d in members]))
    else:
        FILE.write_bytes(content if kind == WHOLE else _BEFORE + content + _BEHIND)
    check_locate(FILE)


def changed(data: bytes, rng: random.Random, most: int, own: mutate.Mutate) -> bytes:
    """The first byte stays, mostly; the rest is a pickle."""
    kind = data[:1] if rng.random() < 0.95 else bytes([rng.randrange(3)])
    return kind + mutate.pickled(data[1:], rng, most - 1, own)


def main() -> None:
    zips = [bytes([ZIP]) + p for p in seeds.pickles()]
    fourth = [bytes([FOURTH]) + seeds.legacy_weights()]
    harness.fuzz(one, [*zips, *fourth, *(bytes([WHOLE]) + f for f in seeds.legacy())], changed)


if __name__ == "__main__":
    main()
