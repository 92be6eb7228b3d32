"""safetensors headers and files, the shard index, .npy headers, and the list of weights in a .pt2."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["collapsekit"]):
    from tests.fuzz import harness, mutate, seeds
    from tests.fuzz.invariant import check_locate

FOLDER = harness.scratch()
HEADER, FILE, INDEX, ARRAY, CONFIG = range(5)  # an input's first byte, modulo 5
NAMES = ("h.safetensors", "f.safetensors", "model.safetensors.index.json", "a.npz", "m.pt2")
for shard, written in seeds.shards().items():
    (FOLDER / shard).write_bytes(written)


def one(data: bytes) -> None:
    kind, content = (data[0] % 5, data[1:]) if data else (FILE, b"")
    if kind == HEADER:
        content = seeds.safetensors(content)
    elif kind == ARRAY:
        content = seeds.zipped([("a.npy", content)], checksums=False)
    elif kind == CONFIG:
        content = seeds.pt2(content, checksums=False)
    path = FOLDER / NAMES[kind]
    path.write_bytes(content)
    check_locate(path)


def changed(data: bytes, rng: random.Random, most: int, own: mutate.Mutate) -> bytes:
    kind = data[0] % 5 if data else FILE
    if kind == ARRAY:
        return bytes([kind]) + mutate.npy(data[1:], rng, most - 1, own)
    if kind == FILE:
        return bytes([kind]) + own(data[1:], most - 1)
    return bytes([kind]) + mutate.json_text(data[1:], rng, most - 1, own)


def main() -> None:
    headers = [json.dumps(h).encode() for h in seeds.safetensors_headers()]
    of = {
        HEADER: headers,
        FILE: [seeds.safetensors(h) for h in headers],
        INDEX: [json.dumps(i).encode() for i in seeds.indices()],
        ARRAY: seeds.npys(),
        CONFIG: [json.dumps(c).encode() for c in seeds.pt2_configs()],
    }
    harness.fuzz(one, [bytes([kind]) + s for kind, some in of.items() for s in some], changed)


if __name__ == "__main__":
    main()
