"""Rounds: they end where verdicts stand, and many of them are one plan of as many draws."""

from __future__ import annotations

from pathlib import Path

from collapsekit.answers.manifest import Manifest, read_ids
from collapsekit.answers.rounds import plan_next
from collapsekit.config.load import check_config
from tests.answers.subjects import Asked, make_asked


def draws(count: int) -> dict[str, dict[str, int]]:
    return {"reliance": {"draws": count}}


def test_a_verdict_that_stands_asks_nothing_more(tmp_path: Path) -> None:
    asked = make_asked(tmp_path, ignored=["audio"])
    asked.plan(options=draws(4))
    asked.answer()
    found = plan_next(asked.questions, [asked.answers], check_config(asked.config, base=tmp_path))
    assert (found.plan, found.count, found.undecided) == (None, 0, ())


def test_open_verdicts_are_asked_about_with_twice_the_draws(tmp_path: Path) -> None:
    asked = make_asked(tmp_path, steps=4, sizes={"train": 60, "val": 24, "test": 24})  # hardly trained, and few
    first = asked.plan(options=draws(4))
    asked.answer()
    before = set(read_ids(asked.questions, first).tolist())
    found = plan_next(asked.questions, [asked.answers], check_config(asked.config, base=tmp_path))
    assert found.undecided
    second = found.save(asked.questions)
    assert second == Manifest.load(asked.questions)
    assert max(second.draws.values()) == 8
    after = set(read_ids(asked.questions, second).tolist())
    assert before < after
    assert asked.answer() == found.count == len(after) - len(before)

    at_once = Asked(asked.model, asked.config, tmp_path / "once")
    assert set(read_ids(at_once.questions, at_once.plan(options=draws(8))).tolist()) == after
    at_once.answer()
    assert asked.score().to_json() == at_once.score().to_json()
