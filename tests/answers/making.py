"""Manifests and answers that no model made."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.answers import KEY, make_manifest
from collapsekit.answers.question import to_id

__all__ = ["KEY", "make_answers", "make_manifest", "make_numbers", "write_lines"]


def make_numbers(count: int, seed: int = 0) -> NDArray[np.uint64]:
    """Numbers of so many questions, in no order."""
    r = random.Random(seed)
    return np.array([r.getrandbits(64) for _ in range(count)], np.uint64)


def make_answers(numbers: NDArray[np.uint64], seed: int = 0) -> list[dict[str, Any]]:
    """An answer to each question."""
    r = random.Random(seed)
    scores = [[round(r.uniform(-4, 4), 4) for _ in range(3)] for _ in numbers]
    return [{"id": to_id(int(n)), "plan": KEY, "scores": s} for n, s in zip(numbers, scores, strict=True)]


def write_lines(path: Path, lines: Iterable[Mapping[str, Any] | str | bytes]) -> Path:
    """Write JSON lines, or text as it is."""
    texts = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path
