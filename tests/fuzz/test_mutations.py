"""Sound files of every format, changed at random, through the readers: the targets of tests/fuzz without a fuzzer."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target

LONGEST = 16_384
SEEDS = {name: target.seeds() for name, target in TARGETS.items()}


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutations")


def plainly(rng: random.Random) -> object:
    """In the place of the fuzzer's own mutations: some bytes changed, taken out, doubled or moved."""

    def mutate(data: bytes, most: int) -> bytes:
        for _ in range(rng.choice((1, 1, 2, 5))):
            at, other = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
            length = rng.choice((1, 1, 2, 4, 8, 30))
            new = rng.choice(
                (
                    b"",
                    rng.randbytes(length),
                    bytes([255]) * length,
                    bytes(length),
                    data[other : other + length],
                )
            )
            data = data[:at] + new + data[at + rng.choice((0, len(new), length)) :]
        return data[:most]

    return mutate


def changed(target: Target, seed: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        seed = target.changed(seed, rng, LONGEST, plainly(rng))  # type: ignore[arg-type]
    return seed


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data(), number=st.integers(0, 1 << 32))
def test_what_must_hold_of_any_input_holds_of_changed_ones(
    spot: Path, name: str, choice: st.DataObject, number: int
) -> None:
    seed = choice.draw(st.sampled_from(SEEDS[name]))
    folder = spot / name
    folder.mkdir(exist_ok=True)
    TARGETS[name].one(folder, changed(TARGETS[name], seed, random.Random(number)))


def test_the_readme_lists_every_target() -> None:
    text = (Path(__file__).parents[1] / "fuzz" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_themselves_are_sound(tmp_path: Path, name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name].one(tmp_path, seed)
