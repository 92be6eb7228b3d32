"""Answers that are lost, repeated, reordered, cut, contradictory or another plan's: never taken for what they are not."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collapsekit.answers.question import to_id
from collapsekit.answers.reading import ANSWERED, FAILED, MISSING, REFUSED, UNREAD, AnswerTable, read_answers
from collapsekit.errors import ConfigError, RefusedError
from tests.answers.making import KEY, make_answers, make_manifest, make_numbers, write_lines

COUNT = 12
NUMBERS = make_numbers(COUNT)
SOUND = make_answers(NUMBERS)


def read(path: Path, lines: list[Any], **shape: Any) -> AnswerTable:
    return read_answers(make_manifest(COUNT, **shape), NUMBERS, [write_lines(path, lines)])


def refusal(path: Path, lines: list[Any], **shape: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        read(path, lines, **shape)
    return str(caught.value)


def test_answers_are_those_that_were_given(tmp_path: Path) -> None:
    table = read(tmp_path / "a", SOUND)
    assert table.count(ANSWERED) == COUNT
    assert not len(table.open)
    by_id = {one["id"]: one["scores"] for one in SOUND}
    for number, row in zip(table.numbers, table.values, strict=True):
        assert row.tolist() == np.array(by_id[to_id(int(number))], np.float32).tolist()


def test_order_files_and_repeats_do_not_matter(tmp_path: Path) -> None:
    whole = read(tmp_path / "a", SOUND)
    halves = [write_lines(tmp_path / "b", SOUND[7:]), write_lines(tmp_path / "c", [*SOUND[:8], "", *SOUND[:3]])]
    again = read_answers(make_manifest(COUNT), NUMBERS, halves)
    assert again.digest() == whole.digest()
    assert (again.tally.repeated, whole.tally.repeated) == (4, 0)


def test_what_is_cut_is_missing_and_named(tmp_path: Path) -> None:
    cut = json.dumps(SOUND[4])[:-5]
    table = read(tmp_path / "a", [*SOUND[:4], cut, *SOUND[6:]])
    assert sorted(table.open.tolist()) == sorted(NUMBERS[4:6].tolist())
    assert table.tally.damaged == 1


def test_a_retry_adds_to_what_is_known_and_takes_nothing_away(tmp_path: Path) -> None:
    id_ = SOUND[0]["id"]
    tries: list[dict[str, Any]] = [{"id": id_, "error": "429"}, {"id": id_, "refused": True}, SOUND[0]]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert read(tmp_path / "a", [*(tries[i] for i in order), *SOUND[1:]]).count(ANSWERED) == COUNT
    states = {MISSING: SOUND[1:], FAILED: [tries[0], *SOUND[1:]], REFUSED: [tries[1], tries[0], *SOUND[1:]]}
    for state, lines in states.items():
        assert read(tmp_path / "a", lines).count(state) == 1


def test_what_contradicts_or_is_of_others_is_refused_by_name(tmp_path: Path) -> None:
    other = {**SOUND[3], "scores": [9.0, 9.0, 9.0]}
    assert SOUND[3]["id"] in refusal(tmp_path / "a", [*SOUND, other])
    assert "another plan" in refusal(tmp_path / "a", [{**SOUND[0], "plan": "f" * 64}, *SOUND[1:]])
    assert "0123456789abcdef" in refusal(tmp_path / "a", [*SOUND, {"id": "0123456789abcdef", "scores": [1, 2, 3]}])
    assert "2 models" in refusal(tmp_path / "a", [{**SOUND[0], "model": "a"}, {**SOUND[1], "model": "b"}])
    assert "line 2 has 2 scores, expected 3" in refusal(tmp_path / "a", [SOUND[0], {**SOUND[1], "scores": [1, 2]}])
    with pytest.raises(ConfigError, match="none does not exist: check the path"):
        read_answers(make_manifest(COUNT), NUMBERS, [tmp_path / "none"])
    with pytest.raises(ConfigError, match="no file of answers"):
        read_answers(make_manifest(COUNT), NUMBERS, [tmp_path])


def test_numbers_that_are_none_are_no_answers(tmp_path: Path) -> None:
    for bad in ("NaN", "1e999", "-Infinity", "true", '"3"', "null", "[1]"):
        line = f'{{"id": "{SOUND[0]["id"]}", "scores": [1.0, {bad}, 2.0]}}'
        if bad in ("NaN", "-Infinity"):  # no JSON at all
            assert read(tmp_path / "a", [line, *SOUND[1:]]).count(MISSING) == 1
        else:
            assert "no finite numbers" in refusal(tmp_path / "a", [line, *SOUND[1:]])


def test_text_that_names_no_choice_is_unread(tmp_path: Path) -> None:
    lines = [{"id": one["id"], "text": text} for one, text in zip(SOUND, ["b", "maybe"], strict=False)]
    table = read(tmp_path / "a", lines, choices=("a", "b", "c"))
    assert (table.count(ANSWERED), table.count(UNREAD)) == (1, 1)


Fault = Callable[[random.Random, list[bytes]], list[bytes]]


def _lose(r: random.Random, lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if r.random() > 0.2]


def _repeat(r: random.Random, lines: list[bytes]) -> list[bytes]:
    return lines + r.sample(lines, min(len(lines), 3))


def _reorder(r: random.Random, lines: list[bytes]) -> list[bytes]:
    return r.sample(lines, len(lines))


def _cut(r: random.Random, lines: list[bytes]) -> list[bytes]:
    return [line[: r.randrange(len(line))] if line and r.random() < 0.2 else line for line in lines]


def _cut_the_file(r: random.Random, lines: list[bytes]) -> list[bytes]:
    whole = b"\n".join(lines)
    return whole[: r.randrange(len(whole) + 1)].split(b"\n")


def _join(r: random.Random, lines: list[bytes]) -> list[bytes]:
    at = r.randrange(max(1, len(lines) - 1))
    return [*lines[:at], b"".join(lines[at : at + 2]), *lines[at + 2 :]]


def _contradict(r: random.Random, lines: list[bytes]) -> list[bytes]:
    one = r.choice(SOUND)  # both are there: of one answer alone nobody could tell that there was another
    other = {**one, "scores": [round(r.uniform(5, 6), 4) for _ in range(3)]}
    return r.sample([*lines, json.dumps(one).encode(), json.dumps(other).encode()], len(lines) + 2)


def _of_another_plan(r: random.Random, lines: list[bytes]) -> list[bytes]:
    other = {"id": to_id(r.getrandbits(64)), "plan": r.choice([KEY, "c" * 64]), "scores": [1.0, 2.0, 3.0]}
    return [*lines, json.dumps(other).encode()]


def _fail(r: random.Random, lines: list[bytes]) -> list[bytes]:
    failed = {"id": r.choice(SOUND)["id"], r.choice(["error", "refused"]): "429"}
    lines = [line for line in lines if failed["id"].encode() not in line] if r.random() < 0.5 else lines
    return [*lines, json.dumps(failed).encode()]


def _spoil(r: random.Random, lines: list[bytes]) -> list[bytes]:
    at = r.randrange(max(1, len(lines)))
    noise = bytes(r.randrange(256) for _ in range(20)).replace(b"\n", b" ")
    return [*lines[:at], noise, *lines[at:]]


FAULTS: tuple[Fault, ...] = (
    _lose,
    _repeat,
    _reorder,
    _cut,
    _cut_the_file,
    _join,
    _contradict,
    _of_another_plan,
    _fail,
    _spoil,
)


def test_no_fault_gives_another_answer(tmp_path: Path) -> None:
    """Of ten thousand files with one to three faults, each is refused, or says of every question what was answered to it, or
    that it has no answer; judging is done of whole tables alone, so no verdict can rest on another one."""
    r, path = random.Random(7), tmp_path / "answers"
    right = {one["id"]: np.array(one["scores"], np.float32) for one in SOUND}
    plain = [json.dumps(one).encode() for one in SOUND]
    manifest, counts = make_manifest(COUNT), {"refused": 0, "whole": 0, "missing": 0}
    whole = read_answers(manifest, NUMBERS, [write_lines(path, plain)]).digest()
    for _ in range(10_000):
        lines = list(plain)
        for fault in sorted(r.choices(FAULTS, k=r.randint(1, 3)), key=lambda f: f is _contradict):
            lines = fault(r, lines)
        path.write_bytes(b"\n".join(lines))
        try:
            table = read_answers(manifest, NUMBERS, [path])
        except RefusedError:
            counts["refused"] += 1
            continue
        for number, state, row in zip(table.numbers.tolist(), table.states, table.values, strict=True):
            if state == ANSWERED:
                assert (row == right[to_id(number)]).all()
        complete = table.count(ANSWERED) == COUNT
        assert (table.digest() == whole) == complete
        counts["whole" if complete else "missing"] += 1
    print(counts)
    assert min(counts.values()) > 300


def test_reading_imports_no_torch() -> None:
    code = "import sys, collapsekit.answers.reading, collapsekit.answers.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
