"""python tests/fuzz/run.py TARGET [libFuzzer options] [FILE]: fuzz one target, or run one input of it again."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["collapsekit", "zipfile", "yaml", "tomllib", "json"]):
    from tests.fuzz.targets import TARGETS

SECONDS, MEGABYTES, LONGEST = 5, 1500, 16_384  # an input; the process, of which torch takes a third; bytes
_SHARED = Path("/dev/shm")


def scratch() -> Path:
    """A new folder, in memory where there is such a place."""
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=_SHARED if _SHARED.is_dir() else None))


def main() -> None:
    """Mutate the target's seeds until libFuzzer's options (``-max_total_time=60``) say it is enough."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"{__doc__}\nTargets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    corpus, folder = scratch(), scratch()
    for i, seed in enumerate(target.seeds()):
        (corpus / f"seed{i}").write_bytes(seed)

    def custom(data: bytes, most: int, seed: int) -> bytes:
        return target.changed(data, random.Random(seed), most, atheris.Mutate)

    again = any(Path(a).is_file() for a in sys.argv[1:])
    limits = {"timeout": SECONDS, "rss_limit_mb": MEGABYTES, "max_len": LONGEST, "print_final_stats": 1}
    limits |= {"mutate_depth": 2, "cross_over": 0}  # the mutators change several places themselves
    given = [f"-{k}={v}" for k, v in limits.items() if not any(a.startswith(f"-{k}=") for a in sys.argv)]
    atheris.Setup(
        [*sys.argv, *given, *([] if again else [str(corpus)])],
        lambda data: target.one(folder, data),
        custom_mutator=custom,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
