"""One job of several: `python job.py NUMBER OF`, numbers from 0, answers its part of the questions into its own file."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
from network import answer

from collapsekit.answers import Engine


def main(number: int, of: int) -> None:
    """Answer one part; a job that was ended goes on where it was."""
    weights = np.load("weights.npy")
    engine = Engine("questions", config="elsewhere.yaml")
    count = engine.answer(
        partial(answer, weights=weights),
        f"answers-{number:03d}.jsonl",
        batch_size=512,
        model="softmax@1",
        part=(number, of),
    )
    print(f"job {number} of {of}: {count} questions answered")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
