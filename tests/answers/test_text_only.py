"""The text and nothing else: asked by default where choices are named, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collapsekit import Report
from collapsekit.answers.manifest import read_shards
from collapsekit.answers.rounds import plan_next
from collapsekit.answers.scoring import AnswersMissingError
from collapsekit.config.load import check_config
from collapsekit.data.memory import with_data
from collapsekit.render import write
from tests.answers.subjects import Asked, make_text_asked

CHOICES = ["red", "green", "blue"]
ALONE = "the model's own answers to it alone"


def make_chat(folder: Path, **answers: Any) -> Asked:
    asked = make_text_asked(folder)
    asked.config["answers"] = {"choices": CHOICES, "model": "m", **answers}
    return asked


def answer_with_text(batch: Mapping[str, Any]) -> Tensor:
    """By a word of the text, and where there is one by the image; without it, by the text alone."""
    words = torch.tensor([[float(word in t.split()) for word in CHOICES] for t in batch["text"]])
    if batch["image"] is None:
        return torch.round(2 * words, decimals=3)
    mean = torch.from_numpy(batch["image"]).mean((1, 2))
    return torch.round(2 * words + 8 * mean[:, None] * torch.tensor([1.0, 0.0, -1.0]), decimals=3)


def test_every_example_is_asked_with_its_text_alone(tmp_path: Path) -> None:
    asked = make_chat(tmp_path)
    manifest = asked.plan()
    lines = list(read_shards(asked.questions, manifest))
    alone = [line for line in lines if line["edit"] == {"image": {"left_out": True}}]
    sizes = {split: one.examples for split, one in manifest.data.items()}
    assert {s: sum(line["split"] == s for line in alone) for s in sizes} == sizes
    assert manifest.cost.text_only == sum(sizes.values()) == len(alone)


@pytest.mark.parametrize(
    "change",
    [
        {"answers": {"choices": CHOICES, "text_only": False}},
        {"answers": {}},
        {"modalities": {"image": None, "text": {"predictions": "said"}}},
    ],
)
def test_it_is_not_asked_where_it_is_not_meant(change: dict[str, Any], tmp_path: Path) -> None:
    asked = make_chat(tmp_path)
    asked.config |= change
    if "said" in str(change):
        asked.data = {
            split: [{**batch, "said": torch.zeros(len(batch["label"]), 3)} for batch in batches]
            for split, batches in (asked.data or {}).items()
        }
    manifest = asked.plan()
    assert manifest.cost.text_only == 0
    assert not any("left_out" in json.dumps(line["edit"]) for line in read_shards(asked.questions, manifest))


@pytest.mark.parametrize("form", ["plain", "parquet"])
def test_a_function_is_given_none_for_what_is_left_out(form: str, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("polars")
    asked = make_chat(tmp_path)
    manifest = asked.plan(format=form)
    seen: dict[bool, int] = {False: 0, True: 0}

    def answer(batch: Mapping[str, Any]) -> Tensor:
        seen[batch["image"] is None] += len(batch["text"])
        return answer_with_text(batch)

    asked.engine().answer(answer, asked.answers, batch_size=50)
    assert seen[True] == manifest.cost.text_only


def test_a_request_has_no_part_of_what_is_left_out(tmp_path: Path) -> None:
    asked = make_chat(tmp_path)
    manifest = asked.plan(format="openai-batch", limit=20)
    bodies = [line["body"] for line in read_shards(asked.questions, manifest)]
    kinds = [[part["type"] for part in body["messages"][0]["content"]] for body in bodies]
    assert kinds.count(["text", "text"]) == manifest.cost.text_only
    assert kinds.count(["image_url", "text", "text"]) == len(kinds) - manifest.cost.text_only


def scored(asked: Asked) -> Report:
    asked.plan()
    asked.engine().answer(answer_with_text, asked.answers)
    return asked.score()


def test_the_due_of_the_text_is_read_from_it_and_the_report_says_so(tmp_path: Path) -> None:
    with_it = scored(make_chat(tmp_path / "with"))
    without = scored(make_chat(tmp_path / "without", text_only=False))
    strength = with_it.find("utilisation.strength", "text")
    assert strength is not None
    assert strength.curve is not None
    gains = dict(zip(strength.curve.x, strength.curve.y, strict=True))
    assert gains[ALONE] == max(gains.values())
    assert str(strength.note).startswith(ALONE)
    for modality, has in (("text", True), ("image", False)):
        found = with_it.find("utilisation.strength", modality)
        assert found is not None
        assert found.curve is not None
        assert (ALONE in found.curve.x) == has
    assert ALONE not in without.to_json()
    told = {w.name: w.sentence for w in with_it.warnings}
    accuracy = sum(
        (answer_with_text({"text": b["text"], "image": None}).argmax(1) == b["label"]).sum().item()
        for b in make_text_asked(tmp_path).data["test"]  # type: ignore[index]
    )
    assert f"With text alone the model reaches {accuracy / 60:.2f} accuracy, with everything " in told["text_only"]
    assert "text_only" not in {w.name for w in without.warnings}


def test_its_own_answers_make_no_reference_that_is_strong(tmp_path: Path) -> None:
    """A model that reads little of the text answers little to the text alone: that cannot show that there is more."""
    found = scored(make_chat(tmp_path))
    trained = found.find("utilisation.reference_trained", "text")
    independent = found.find("utilisation.reference_independent", "text")
    plain = scored(make_chat(tmp_path / "b", text_only=False)).find("utilisation.reference_independent", "text")
    assert trained is not None
    assert independent is not None
    assert plain is not None
    assert trained.value == 0
    assert independent.value == plain.value


def test_another_round_asks_no_text_again(tmp_path: Path) -> None:
    asked = make_chat(tmp_path)
    manifest = asked.plan(options={"reliance": {"draws": 2}})
    asked.engine().answer(answer_with_text, asked.answers)
    config, source = with_data(check_config(asked.config, base=asked.folder), asked.data)
    more = plan_next(asked.questions, [asked.answers], config, source)
    if more.plan is not None:
        assert more.save(asked.questions).cost.text_only == manifest.cost.text_only


def answer_but(asked: Asked, told: dict[str, Any], count: int) -> None:
    """Answer a plan, and so many of the questions with the text alone by this."""
    left = [count]

    def answer(batch: Mapping[str, Any]) -> list[Any]:
        rows: list[Any] = answer_with_text(batch).tolist()
        for i in range(len(rows)):
            if batch["image"] is None and left[0]:
                rows[i], left[0] = told, left[0] - 1
        return rows

    asked.plan()
    asked.engine().answer(answer, asked.answers)


def test_without_answers_to_the_text_alone_all_else_is_judged(tmp_path: Path) -> None:
    asked = make_chat(tmp_path / "a")
    answer_but(asked, {"error": "no picture"}, 3)
    found = asked.score(missing=tmp_path / "missing.jsonl")
    assert len((tmp_path / "missing.jsonl").read_text().splitlines()) == 3
    sentences = {w.name: w.sentence for w in found.warnings}
    assert sentences["text_only"].startswith("3 of 240 questions with the text alone have no answer")
    for form in ("terminal", "markdown", "html"):
        assert "with the text alone have no answer" in " ".join(write(found, form).split())
    assert ALONE not in found.to_json()
    plain = scored(make_chat(tmp_path / "b", text_only=False))
    assert found.results == plain.results
    asked.answers.write_text("\n".join(asked.answers.read_text().splitlines()[5:]) + "\n")
    with pytest.raises(AnswersMissingError, match="8 of"):
        asked.score()


def test_declining_without_a_picture_is_no_reason_to_judge_nothing(tmp_path: Path) -> None:
    asked = make_chat(tmp_path)
    answer_but(asked, {"refused": True}, 200)
    sentences = [w.sentence for w in asked.score().warnings if w.name == "text_only"]
    assert sum("200 of 240 answers to the text alone are refusals" in one for one in sentences) == 1
    assert "answers_refused" not in {w.name for w in asked.score().warnings}


def test_whether_the_text_is_asked_about_alone_is_no_part_of_the_questions(tmp_path: Path) -> None:
    """Where it turns out that an engine cannot, answers that are there stay answers."""
    asked = make_chat(tmp_path)
    answer_but(asked, {"error": "no picture"}, 3)
    asked.config["answers"]["text_only"] = False
    assert "text_only" in {w.name for w in asked.score().warnings}
    later = make_chat(tmp_path / "later", text_only=False)
    scored(later)
    later.config["answers"]["text_only"] = True
    assert "text_only" not in {w.name for w in later.score().warnings}
