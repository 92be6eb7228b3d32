"""Pictures of one colour, and a hint in words that is right in most of them: which colour is it?"""

from __future__ import annotations

from typing import Any

import numpy as np

COLOURS = ("red", "green", "blue")
SIZES = {"train": 120, "val": 60, "test": 80}


def splits() -> dict[str, list[dict[str, Any]]]:
    """Splits as lists of batches; the same each time."""
    r = np.random.default_rng(0)

    def batches(n: int) -> list[dict[str, Any]]:
        label = r.integers(0, 3, n)
        image = r.integers(0, 90, (n, 3, 8, 8)).astype(np.uint8)
        image[np.arange(n), label] += 150  # the colour is plain to see
        said = np.where(r.random(n) < 0.7, label, r.integers(0, 3, n))
        hint = [f"Somebody said it is {COLOURS[i]}." for i in said]
        return [
            {"image": image[i : i + 20], "hint": hint[i : i + 20], "label": label[i : i + 20]} for i in range(0, n, 20)
        ]

    return {name: batches(n) for name, n in SIZES.items()}
