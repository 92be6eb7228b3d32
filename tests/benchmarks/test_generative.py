"""The benchmark of planted vision-language models: what is drawn, what is planted, truths and causes, the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.generative import __main__ as command
from benchmarks.generative import boundary, subjects, table
from benchmarks.generative.competitors import scores
from benchmarks.generative.models import ARCHITECTURES
from benchmarks.generative.subjects import KINDS, Hinted, Subject, answers, image_states, train
from benchmarks.generative.truth import measure_truth, true_cause, truths
from benchmarks.generative.worlds import WORLDS, sample
from benchmarks.records import add_line

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of two steps."""
    monkeypatch.setattr(subjects, "LEAST", 1)
    monkeypatch.setattr(subjects, "LOOK", 2)
    monkeypatch.setattr(subjects, "STEPS", 2)
    monkeypatch.setattr(subjects, "POOL", 80)
    monkeypatch.setattr(subjects, "LOOKED", 20)
    monkeypatch.setattr(subjects._fit, "__defaults__", (2,))


@pytest.mark.parametrize("world", WORLDS)
def test_pictures_say_what_the_answer_needs_of_them_and_words_the_rest(world: str) -> None:
    e = sample(WORLDS[world], 2000, 3, (8, 8))
    colour = torch.stack([x[0].mean() - x[2].mean() for x in e.images]) > 0
    place = torch.stack([x[1, :, 4:].mean() - x[1, :, :4].mean() for x in e.images]) > 0
    said, asked = (e.words[:, :4] > 20).sum(1) > 2, e.words[:, 4] == 42
    wanted = WORLDS[world].answer(*(x.long() for x in (colour, place, said, asked)))
    assert float((wanted == e.answers).double().mean()) > 0.85
    given = sample(WORLDS[world], 200, 3, (8, 8), hinted=1.0)
    assert torch.equal(given.words[:, -1] - 44, given.answers)


@each_architecture
@pytest.mark.parametrize("kind", ["dead projector", "masked", "never seen", "used"])
def test_what_is_planted_holds_whatever_is_trained(architecture: str, kind: str) -> None:
    subject = Subject(architecture, "both", kind, 0)
    model = train(subject)
    e = subject.sample(12, 5)
    e = e.with_images([x[..., : subject.of.size[1]] for x in e.images])  # of one size, as sizes may move answers
    other = e.exchanged(torch.arange(11, -1, -1), images=True)
    with torch.no_grad():
        moved = float((answers(model, subject, e) - answers(model, subject, other)).abs().max())
        states = image_states(model, subject, e)
    assert (moved < 1e-5) == (kind in ("dead projector", "masked"))
    assert (float(states.std(0).max()) < 1e-6) == (kind == "dead projector")
    if kind == "never seen":  # what it reads does not hang on the brightness that tells
        brighter = e.with_images([x + 1.0 for x in e.images])
        with torch.no_grad():
            assert torch.allclose(image_states(model, subject, brighter), states, atol=1e-4)


def test_a_subject_is_the_same_each_time_and_kept(tmp_path: Path) -> None:
    subject = Subject("LLaVA", "both", "used", 1)
    first, again = (subjects.load_or_train(subject, tmp_path) for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 1
    for one in (again, train(subject)):
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), one.parameters(), strict=True))


def test_there_are_sixty_planted_subjects_and_a_hundred_untrained_ones() -> None:
    listed = list(subjects.subjects(1, 12))
    assert len({s.name for s in listed}) == len(listed)
    assert sum(s.kind != "untrained" for s in listed) >= 60
    assert sum(s.kind == "untrained" for s in listed) >= 100


MEASURED = {"costs": {"image": 0.0, "text": 1.0}, "text_accuracy": 0.5, "accuracy": 0.5, "moves": 1.0, "held": 1.0}


@pytest.mark.parametrize(
    ("kind", "changed", "truth", "cause"),
    [
        ("used", {"costs": {"image": 0.5, "text": 0.01}}, ("used", "ignored"), None),
        ("used", {}, (None, None), None),  # it is not what it was made to be
        ("ignored, blank", {}, ("ignored", "used"), "seen but not believed"),
        ("ignored, blank", {"held": 0.5}, ("ignored", "used"), None),
        ("never seen", {"held": 0.1}, ("ignored", "used"), "not seen"),
        ("never seen", {}, ("ignored", "used"), None),
        ("masked", {"moves": 0.0}, ("ignored", "used"), "not there"),
        ("masked", {}, ("ignored", "used"), None),
        ("dead projector", {"held": 0.0}, ("ignored", "used"), "not there"),
        ("prior suffices", {"text_accuracy": 1.0}, ("ignored", "used"), "prior"),
        ("prior suffices", {"costs": {"image": 0.1, "text": 1.0}, "text_accuracy": 1.0}, (None, None), None),
        ("untrained", {}, ("untrained", "untrained"), None),
    ],
)
def test_truths_follow_from_what_was_measured(
    kind: str, changed: dict[str, Any], truth: tuple[str | None, str | None], cause: str | None
) -> None:
    measured = {**MEASURED, **changed}
    assert truths(kind, measured) == dict(zip(("image", "text"), truth, strict=True))
    assert true_cause(kind, measured) == cause


@each_architecture
def test_truth_and_competitors_are_had_of_every_architecture(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FRESH", 40), ("READ_ON", 60), ("EPOCHS", 3)):
        monkeypatch.setattr(f"benchmarks.generative.truth.{name}", value)
    subject = Subject(architecture, "asks", "masked", 0)
    model = train(subject)
    found = measure_truth(model, subject)
    assert found["moves"] < 1e-5
    assert found["costs"]["image"] == pytest.approx(0, abs=1e-4)
    others = scores(model, subject)
    assert others["flip_rate"] == 0
    assert others["attention_share"] == pytest.approx(0, abs=1e-6)


def record(kind: str, image: str, cause: str | None = None, flips: float = 0.0, **changed: Any) -> dict[str, Any]:
    said = {"verdict": image, "score": 0.5, "missing": None, "cause": cause, "reason": "r"}
    return {
        "subject": f"LLaVA/both/{kind}/0",
        "kind": kind,
        "profile": "quick",
        "examples": 400,
        "measured": {**MEASURED, **changed},
        "others": {"flip_rate": flips, "attention_share": 0.3, "blank_drop": 0.1},
        "refused": None,
        "verdicts": {"image": said, "text": {**said, "verdict": "used", "cause": None}},
    }


def test_tables_count_what_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    used = {"costs": {"image": 0.5, "text": 0.5}}
    records = [
        record("used", "used", flips=0.5, **used),
        record("used", "inconclusive", flips=0.1, **used),
        record("ignored, blank", "collapsed", "not seen", flips=0.2),
        record("prior suffices", "used", text_accuracy=1.0),
        record("untrained", "used"),
    ]
    assert table.judged(records[:2]) == [("used", "used"), ("used", "used"), ("used", "inconclusive"), ("used", "used")]
    assert table.judged_causes(records) == [("seen but not believed", "not seen")]
    assert table.fooled(records) == (1, 1)
    assert "| all | 4 | 8 | 7 | 6 | 1 of 1 | 0 |" in table.by_kind(records)
    assert "| verdict | 1 | 3 | |" in table.peers(records)
    path = tmp_path / "r.jsonl"
    for one in records:
        add_line(path, one)
    command.main(["--records", str(path), "--table"])
    assert "1 of 1 untrained subjects" in capsys.readouterr().out


def test_verdicts_under_another_stand_in_are_held_against_the_usual_ones() -> None:
    usual = [record("ignored, blank", "collapsed", "not seen"), record("used", "used")]
    usual = [{**r, "subject": name, "absent": "others"} for r, name in zip(usual, "ab", strict=True)]
    blank = [{**r, "absent": "blank"} for r in usual]
    other = {**usual[0]["verdicts"]["image"], "cause": "prior"}
    blank[0] = {**blank[0], "verdicts": {**blank[0]["verdicts"], "image": other}}
    blank[1] = {**blank[1], "verdicts": {**blank[1]["verdicts"], "text": usual[0]["verdicts"]["image"]}}
    noise = [{**usual[0], "absent": "noise", "refused": "no", "verdicts": {}}]
    found = table.by_absent([*usual, *blank, *noise], "others")
    assert "| others | 2 | 0 | 4 | 0 |" in found
    assert "| blank | 2 | 0 | 4 | 1 |" in found
    assert found.splitlines()[3].endswith("| 1 |")
    assert "| noise | 1 | 1 | 0 | 0 | 0 of 0 | 0 |" in found
    assert "blank: b, text: collapsed, where it was used" in found
    assert "blank: a, image: prior, where it was not seen" in found
    assert table.by_absent(usual, "others") == ""


def test_no_subject_of_that_name_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as e:
        command.main(["--records", str(tmp_path / "r.jsonl"), "--only", "nobody"])
    assert e.value.code == 2


def test_a_boundary_is_a_row_a_model_and_its_hint_its_own() -> None:
    row = {
        "q": 0.5,
        "strength": 0.1,
        "seed": 0,
        "measured": MEASURED,
        "verdict": "collapsed",
        "at_most": None,
        "cause": "prior",
    }
    assert "| 0.1 | 0.5 | 0 | 0.50 | 0.50 | 0.0% | collapsed | prior |" in boundary.table([row])
    plain, sure = (Hinted("LLaVA", "hint", "used", 0, hinted=q).sample(200, 1) for q in (0.0, 1.0))
    assert torch.equal(sure.words[:, -1] - 44, sure.answers)
    assert 0.1 < float((plain.words[:, -1] - 44 == plain.answers).double().mean()) < 0.45
    strong, weak = (Hinted("LLaVA", "hint", "used", 0, strength=x).sample(200, 1).images[0] for x in (2.0, 0.0))
    assert float((strong - weak).abs().mean()) > 1  # the same noise, and what is shown


def test_every_kind_has_a_cause_or_none_to_name() -> None:
    assert {c for c in KINDS.values() if c is not None} == {"seen but not believed", "not seen", "not there", "prior"}
