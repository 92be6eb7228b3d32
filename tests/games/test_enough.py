"""How many other examples are enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from collapsekit import diagnose
from collapsekit.features.extraction import extract
from collapsekit.games import enough
from collapsekit.games.coalitions import CoalitionGame, GameOptions
from collapsekit.games.enough import choose_draws, count_asked
from collapsekit.report.diagnosis import Report
from collapsekit.session.session import Session
from tests.problems import Problem, adapt, make_problem

SIZES = {"train": 120, "val": 60, "test": 96}


@pytest.mark.parametrize(
    ("credits", "chosen"),
    [
        ({8: [0.5, 0.5], 16: [1.0, 1.01]}, 16),  # credits double, shares stay
        ({8: [0.5, 0.5], 16: [0.6, 0.4]}, 32),
        ({8: [0.0, 0.0], 16: [0.0, 0.0]}, 16),
        ({8: [0.5, 0.5], 16: [-0.5, 0.5]}, 32),
    ],
)
def test_more_are_taken_until_no_share_moves(
    credits: dict[int, list[float]], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def find_credits(count: Any) -> torch.Tensor:
        asked.append(count)
        return torch.tensor(credits[count], dtype=torch.float64)[:, None].expand(-1, 9)

    monkeypatch.setattr(enough, "find_credits", find_credits)
    assert choose_draws(lambda count: count, 32) == chosen  # type: ignore[arg-type,return-value]
    assert asked == [8, 16]


def unnamed(folder: Path) -> Problem:
    problem = make_problem(folder, {"a": 5, "b": 4}, sizes=SIZES, steps=60)
    kept = {k: v for k, v in problem.config.items() if k not in ("fusion", "head")}
    problem.config = {**kept, "modalities": {m: {"input": m} for m in ("a", "b")}}
    return problem


def of_reliance(problem: Problem, **options: Any) -> Report:
    how: dict[str, Any] = {"probes": ["reliance"], "profile": "quick", "options": {"reliance": options}, "cache": None}
    return diagnose(model=problem.model, config=problem.config, **how)


def draws_in(report: Report) -> int:
    found = report.find("reliance.shapley", "a")
    assert found is not None
    return int(found.definition.split("averaged over ")[1].split()[0])


def test_half_may_be_enough_and_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    problem = unnamed(tmp_path)
    found, whole = of_reliance(problem, draws="enough"), of_reliance(problem)
    assert (draws_in(found), draws_in(whole)) == (16, 32)
    assert of_reliance(problem, draws="enough").model_dump_json() == found.model_dump_json()
    same = of_reliance(problem, draws=16)
    values = [[r.value for r in report.results if r.value is not None] for report in (same, found)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert len(values[0]) > 8


def test_no_question_is_asked_twice(tmp_path: Path) -> None:
    problem = unnamed(tmp_path)
    adapter = adapt(problem.model, problem.config, {"test": _split(problem, "test"), "train": _split(problem, "train")})
    options = {"reliance": GameOptions(draws="enough")}
    session = Session(adapter, extract(adapter, "test"), options=options, cache=None)
    rows = [0]
    first = problem.model.encoders["a"]
    handle = first.register_forward_hook(lambda _m, args, _out: rows.__setitem__(0, rows[0] + len(args[0])))
    game: CoalitionGame = session.game
    checks = rows[0] - count_asked(96, 16, whole=True) * 96
    for mask in range(4):
        game.value(mask)
        game.calibrated(mask)
    handle.remove()
    assert len(game.donors) == 16
    assert 0 <= checks <= 18 * 64  # whether inputs are read, and rows are answered one by one
    assert rows[0] - checks == count_asked(96, 16, whole=True) * 96 + 120  # and train, to calibrate on
    assert not session._kept.answers


def _split(problem: Problem, split: str) -> dict[str, torch.Tensor]:
    return {k.partition("/")[2]: v for k, v in problem.arrays.items() if k.startswith(f"{split}/")}


def test_rounds_ask_a_pair_once_and_what_has_none_twice() -> None:
    assert count_asked(96, 16, whole=False) == 16
    assert count_asked(96, 16, whole=True) == 17  # the draw that turns by one has no inverse
