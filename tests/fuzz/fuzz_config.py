"""collapsekit.yaml and [tool.collapsekit] in pyproject.toml, through load_config."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["collapsekit", "yaml", "tomllib"]):
    from collapsekit.config import load_config
    from collapsekit.errors import ConfigError
    from tests.fuzz import harness, mutate, seeds
    from tests.fuzz.invariant import check_sentence

FOLDER = harness.scratch()
NAMES = ("collapsekit.yaml", "pyproject.toml")
TOKENS = (
    b"& * << : ? ! | > [ ] { } , # % - --- ... ' \" \\ ~ @ ` &a *a 0x 0b1 1:1:1 1e999 .inf .nan -.5 0o7 !!int".split()
)
TOKENS += [b"\n", b"\n  ", b"\t", b"\xef\xbb\xbf", b"\x00", b"\\U00110000", b"\xe2\x80\xae", b"%YAML 1.1"]
_KEYS = (
    b"model modalities fusion head call task data subsets label group plugins probes seed base origin kwargs".split()
)


def one(data: bytes) -> None:
    path = FOLDER / NAMES[data[0] % 2 if data else 0]
    path.write_bytes(data[1:])
    try:
        config = load_config(path)
    except ConfigError as e:
        check_sentence(str(e), path)
        return
    json.dumps(config.model_dump(mode="json"), allow_nan=False)


def changed(data: bytes, rng: random.Random, most: int, own: mutate.Mutate) -> bytes:
    """Lines and tokens moved about; bytes now and then."""
    kind, text = data[:1] or b"\0", data[1:]
    if rng.random() < 0.4:
        return kind + own(text, most - 1)
    if rng.random() < 0.4:
        lines = text.split(b"\n")
        at, start = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[at : at + rng.randrange(2)] = [rng.choice((b"", b" ", b"- ")) + lines[start]]
        return kind + b"\n".join(lines)[: most - 1]
    at = rng.randrange(len(text) + 1)
    return kind + (text[:at] + rng.choice(TOKENS + _KEYS) + text[at + rng.randrange(4) :])[: most - 1]


def main() -> None:
    harness.fuzz(one, [*(b"\0" + c.encode() for c in seeds.CONFIGS), b"\1" + seeds.PYPROJECT.encode()], changed)


if __name__ == "__main__":
    main()
