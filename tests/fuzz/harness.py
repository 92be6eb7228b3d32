"""One fuzz target as a program: seeds written to a corpus of its own, limits set, libFuzzer's options passed on."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris

from tests.fuzz.mutate import Mutate

Mutator = Callable[[bytes, random.Random, int, Mutate], bytes]
SECONDS, MEGABYTES, LONGEST = 5, 1500, 16_384  # an input; the process, of which torch takes a third; bytes
_SHARED = Path("/dev/shm")


def scratch() -> Path:
    """A new folder, in memory where there is such a place."""
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=_SHARED if _SHARED.is_dir() else None))


def fuzz(one: Callable[[bytes], None], seeds: Iterable[bytes], mutator: Mutator) -> None:
    """Run ``one`` on mutated seeds until libFuzzer's options (``-max_total_time=60``) say it is enough.

    With a path among the arguments that is a file, only that input is run: a finding, again.
    """
    corpus = scratch()
    for i, seed in enumerate(seeds):
        (corpus / f"seed{i}").write_bytes(seed)

    def custom(data: bytes, most: int, seed: int) -> bytes:
        return mutator(data, random.Random(seed), most, atheris.Mutate)

    again = any(Path(a).is_file() for a in sys.argv[1:])
    limits = {"timeout": SECONDS, "rss_limit_mb": MEGABYTES, "max_len": LONGEST, "print_final_stats": 1}
    limits |= {"mutate_depth": 2, "cross_over": 0}  # the mutators change several places themselves
    given = [f"-{k}={v}" for k, v in limits.items() if not any(a.startswith(f"-{k}=") for a in sys.argv)]
    atheris.Setup([*sys.argv, *given, *([] if again else [str(corpus)])], one, custom_mutator=custom)
    atheris.Fuzz()
