"""The watch: it names planted faults of the pipeline within fifty steps, none in healthy trainings, and leaves no trace."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from collapsekit_callbacks import PipelineWarning, Watch
from collapsekit_callbacks.pipeline import asking
from collapsekit_callbacks.pipeline.calls import exchange
from collapsekit_callbacks.pipeline.leaks import LeakTally
from collapsekit_callbacks.pipeline.tally import InputTally
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pipeline.__main__ import watch_training
from benchmarks.pipeline.subjects import (
    HEALTHY,
    MODALITIES,
    PLANTED,
    Answers,
    Picture,
    Training,
    arguments,
    draw_batches,
    label_of,
    losses,
)
from collapsekit.errors import ConfigError


@pytest.mark.parametrize("training", PLANTED, ids=lambda t: t.name)
def test_planted_fault_is_named_with_a_line_to_look_at(training: Training) -> None:
    findings = watch_training(training, 0).findings
    found = [f for f in findings if (f.kind, f.modality) == (training.kind, training.modality)]
    assert len(found) == 1, findings
    assert found[0].step <= 50
    assert re.search(r"look at \S+\.py:\d+[,.]", found[0].sentence), found[0].sentence
    assert found[0].sentence.count(". ") == 0
    assert {f.modality for f in findings} == {training.modality}  # the others are healthy


@pytest.mark.parametrize("training", HEALTHY, ids=lambda t: t.name)
def test_healthy_training_is_left_alone(training: Training) -> None:
    assert watch_training(training, 1).findings == []


@pytest.mark.parametrize("make", [lambda: Picture(norm=True, dropout=0.3), Answers], ids=["picture", "answers"])
def test_training_ends_in_the_same_bits_and_no_hook_is_left(make: Callable[[], nn.Module]) -> None:
    def train(watched: bool) -> tuple[list[Tensor], Tensor, int]:
        torch.manual_seed(4)
        model = make()
        data = "answers" if isinstance(model, Answers) else "picture"
        watch = Watch(model, MODALITIES[data], loss=losses(data), every=5) if watched else None
        optimizer, batches = torch.optim.SGD(model.parameters(), 0.01), draw_batches(data, 2)
        for number in range(1, 61):
            batch = next(batches)
            output = model(**arguments(data, batch))
            loss = output["loss"] if isinstance(output, dict) else F.cross_entropy(output, batch["label"])
            loss.backward()
            if watch is not None:
                watch.step(number, label_of(batch))  # gradients are there, and stay
            optimizer.step()
            optimizer.zero_grad()
        if watch is not None:
            watch.close()
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
        return [v.clone() for v in model.state_dict().values()], torch.rand(3), hooks

    (plain, draw, _), (watched, other, hooks) = train(False), train(True)
    assert all(map(torch.equal, plain, watched))
    assert torch.equal(draw, other)
    assert hooks == 0


CALLS: list[int] = []  # outside of the model, which is put back as it was


class Counted(Picture):
    def forward(self, image: Tensor, table: Tensor | None = None) -> Tensor:
        CALLS.append(len(image))
        return super().forward(image, table)


def test_a_look_costs_one_pass_and_one_a_modality() -> None:
    model = Counted()
    watch = Watch(model, MODALITIES["picture"], every=200)
    asked = 0
    for number, batch in zip(range(1, 1001), draw_batches("picture", 0), strict=False):
        model(**arguments("picture", batch))
        before = len(CALLS)
        watch.step(number, batch["label"])
        asked += len(CALLS) - before
    assert asked == (3 + 5) * 3  # at 10, 25, 50 and at 200, 400, ... 1,000
    assert asked / 3 < 0.01 * 1000  # under one forward in a hundred steps: a step is a forward and a backward


def test_a_change_is_followed_through_the_model_only_where_something_is_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Following it costs a small model as much as the passes do."""
    followed: list[str] = []
    whole = asking.follow
    monkeypatch.setattr(asking, "follow", lambda *a, **k: followed.append("") or whole(*a, **k))
    healthy, broken = HEALTHY[0], next(t for t in PLANTED if t.name == "forward forgets the table")
    assert watch_training(healthy, 0).findings == []
    assert not followed
    assert watch_training(broken, 0).findings
    assert followed


def test_losses_with_and_without_are_those_of_the_batch_and_of_the_batch_exchanged() -> None:
    model, told = Picture(), []
    watch = Watch(
        model, MODALITIES["picture"], loss=F.cross_entropy, log=lambda values, step: told.append((step, values))
    )
    for number, batch in zip(range(1, 11), draw_batches("picture", 0), strict=False):
        model(**arguments("picture", batch))
        watch.step(number, batch["label"])
    ((step, values),) = told
    moved = {**batch, "table": batch["table"].roll(1, 0)}
    assert step == 10
    assert set(values) == {
        "collapsekit/watch/loss",
        "collapsekit/watch/without/image",
        "collapsekit/watch/without/table",
    }
    for name, which in (("loss", batch), ("without/table", moved)):
        loss = F.cross_entropy(model(**arguments("picture", which)), batch["label"])
        assert values[f"collapsekit/watch/{name}"] == pytest.approx(float(loss.detach()), abs=1e-6)


class Stacked(nn.Module):
    """Two channels of one tensor, the second of which is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)

    def forward(self, scans: Tensor) -> Tensor:
        return self.layer(scans[:, 0].flatten(1))  # type: ignore[no-any-return]


def test_part_of_a_field_is_watched_as_a_modality() -> None:
    model = Stacked()
    channels = {"t1": {"input": "scans", "slice": "[0]"}, "flair": {"input": "scans", "slice": "[1]"}}
    watch = Watch(model, channels)

    def train() -> None:
        for number in range(1, 51):
            model(torch.randn(8, 2, 4, 4))
            watch.step(number)

    with pytest.warns(PipelineWarning, match="flair"):
        train()
    assert [(f.kind, f.modality) for f in watch.findings] == [("never reaches the model", "flair")]


def test_each_fault_is_told_once_and_named_where_it_ends() -> None:
    training = next(t for t in PLANTED if t.name == "image's features twice")
    torch.manual_seed(0)
    watch = watch_training(training, 0, steps=300)
    assert [(f.kind, f.step) for f in watch.findings] == [("never reaches the model", 25)]
    assert "what 'table.3' makes of it changes nothing that follows" in watch.findings[0].sentence


def test_evaluation_between_steps_is_not_taken_for_training() -> None:
    model = Picture()
    watch = Watch(model, MODALITIES["picture"])
    model.eval()
    model(torch.zeros(4, 1, 8, 8), torch.zeros(4, 6))
    model.train()
    with torch.no_grad():
        model(torch.zeros(4, 1, 8, 8), torch.zeros(4, 6))
    assert watch.step(1) == []
    assert watch.taken == 0


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (
            {"image": "images"},
            "modality 'image' is argument 'images', and forward takes image, table: name one of these",
        ),
        (
            {"image": {"inputs": "image"}},
            "has the key 'inputs', expected input, slice, where or mask (did you mean 'input'",
        ),
        ({"image": {"input": "image", "slice": "[a]"}}, "modality 'image': slice"),
        ({"image": {"input": "image", "mask": "hidden"}}, "argument 'hidden'"),
    ],
)
def test_what_is_typed_wrong_is_named(modalities: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Watch(Picture(), modalities)
    assert message in str(error.value)


def test_arguments_in_the_wrong_order_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model is a dict, expected a torch\.nn\.Module"):
        Watch(MODALITIES["picture"], Picture())  # type: ignore[arg-type]
    watch = Watch(Picture(), MODALITIES["picture"])
    with pytest.raises(ConfigError, match=r"step is a tensor of shape \(4,\), expected .*\(step, label\)"):
        watch.step(torch.zeros(4), 1)  # type: ignore[arg-type]


def test_every_has_to_be_a_number_of_steps() -> None:
    with pytest.raises(ConfigError, match="every is 0"):
        Watch(Picture(), MODALITIES["picture"], every=0)


def test_a_model_that_fails_on_exchanged_examples_is_said_and_training_goes_on() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            assert torch.equal(a[:, 0], b[:, 0]), "parts have to match"
            return self.layer(a) + self.layer(b)  # type: ignore[no-any-return]

    model = Strict()
    watch = Watch(model, {"a": "a", "b": "b"})
    for number in range(1, 11):
        x = torch.randn(4, 2)
        model(x, x.clone())
        watch.step(number)
    assert watch.skipped == dict.fromkeys("ab", "the model fails on exchanged examples: AssertionError")
    assert watch.findings == []


def test_exchange_moves_examples_on_whatever_holds_them() -> None:
    x = torch.arange(6).view(6, 1)
    assert exchange(x, 6, None).flatten().tolist() == [5, 0, 1, 2, 3, 4]
    assert exchange(x, 3, None).flatten().tolist() == [4, 5, 0, 1, 2, 3]  # two rows an example
    assert exchange(x, 4, None).flatten().tolist() == [5, 4, 3, 2, 1, 0]  # rows that do not go by example
    assert exchange(["a", "b", "c"], 3, None) == ["b", "c", "a"]
    assert torch.equal(exchange(x[:1], 1, x[1:2]), x[1:2])
    assert exchange(x[:1], 1, None) is None
    assert exchange({"p": x}, 6, None)["p"].flatten().tolist() == [5, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(20))
def test_chance_gives_no_label_away(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    kinds = (
        torch.randn(8, 12, generator=g),
        (torch.rand(8, 12, generator=g) < 0.05).float(),
        torch.zeros(8, 12).long(),
    )
    tallies = [LeakTally() for _ in kinds]
    for _ in range(50):
        drawn = (
            torch.randn(8, 12, generator=g),
            (torch.rand(8, 12, generator=g) < 0.05).float(),
            torch.randint(0, 9, (8, 12), generator=g),
        )
        label = torch.randint(0, 3, (8,), generator=g)
        for tally, x in zip(tallies, drawn, strict=True):
            tally.add([x], label)
    assert [t.reason() for t in tallies] == [None] * 3


def first_settled(rows: Tensor, label: Tensor) -> int | None:
    """By the definition: the first column that has one value in each class, not the same one, where all such columns
    together tell every two classes apart."""
    classes = [rows[label == c] for c in label.unique()]
    if len(classes) < 2 or min(map(len, classes)) < 3:
        return None
    found = [
        i
        for i in range(rows.shape[1])
        if all(len(c[:, i].unique()) == 1 for c in classes) and len({float(c[0, i]) for c in classes}) > 1
    ]
    apart = {tuple(c[0, found].tolist()) for c in classes}
    return found[0] if found and len(apart) == len(classes) else None


@pytest.mark.parametrize("seed", range(40))
def test_columns_that_settle_the_label_are_found_as_by_definition(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    classes, tally, xs, ys = 2 + seed % 3, LeakTally(), [], []
    tables = torch.randint(0, 3, (classes, 4), generator=g)
    for step in range(10):
        label = torch.randint(0, classes if step > 2 or seed % 2 else 2, (12,), generator=g)
        noisy = torch.rand(12, 4, generator=g) < 0.01 * (seed % 4)
        rows = torch.where(noisy, torch.randn(12, 4, generator=g), tables[label].float())
        rows[:, seed % 4] = torch.randn(12, generator=g)
        rows[:, (seed + 1) % 4] += step * (seed % 5 == 0)  # one value in each class of a batch, another one in the next
        tally.add([rows], label)
        xs, ys = [*xs, rows], [*ys, label]
    expected = first_settled(torch.cat(xs), torch.cat(ys))
    reason = tally.reason()
    assert (reason is None) == (expected is None)
    assert reason is None or f"its number {expected} takes" in reason


def test_tokens_that_come_late_can_settle_the_label() -> None:
    tally = LeakTally()
    for step in range(10):
        label = torch.arange(12) % 3
        tokens = torch.randint(0, 5, (12, 6), generator=torch.Generator().manual_seed(step))
        tokens[:, 0] = 7 + label
        rows = slice(None) if step else label < 1  # the highest token comes in the second step
        tally.add([tokens[rows]], label[rows])
    assert tally.reason() == "its number 7 takes one value in each class, so that the label can be read from it"


@pytest.mark.parametrize(
    ("how", "leaks"), [("answer", True), ("answer and an end", True), ("choices", False), ("somewhere", False)]
)
def test_an_answer_at_one_place_of_the_prompt_is_a_leak(how: str, leaks: bool) -> None:
    tally, g = LeakTally(), torch.Generator().manual_seed(0)
    for _ in range(10):
        ids = torch.randint(10, 30, (8, 9), generator=g)
        answer = torch.randint(1, 4, (8,), generator=g)
        if how == "choices":
            ids[:, 2:5] = torch.tensor([1, 2, 3])
        else:
            at = torch.randint(0, 6, (8,), generator=g) if how == "somewhere" else torch.full((8,), 2)
            ids[torch.arange(8), at] = answer
        labels = torch.full_like(ids, -100)
        labels[:, -2] = answer
        labels[:, -1] = 40 if how == "answer and an end" else -100
        tally.add([ids], labels)
    assert (tally.reason() is not None) == leaks
    if leaks:
        assert "the prompt holds the answer's own tokens at token " in str(tally.reason())


def test_facts_are_those_of_all_rows_seen() -> None:
    g, tally, all_rows = torch.Generator().manual_seed(1), InputTally(), []
    for size in (3, 1, 4):
        x = torch.randn(size, 2, 5, generator=g)
        all_rows.append(x)
        tally.add([x])
    facts, whole = tally.facts(), torch.cat(all_rows)
    assert facts is not None
    assert (facts.examples, facts.steps, facts.same, facts.repeated, facts.blank) == (8, 3, False, 0, 0.0)
    assert (facts.low, facts.high) == (float(whole.min()), float(whole.max()))
    assert facts.mean == pytest.approx(float(whole.double().mean()))
    assert facts.spread == pytest.approx(float(whole.double().std(correction=0)))


@pytest.mark.slow
def test_one_healthy_training_in_a_thousand_at_most_has_a_finding() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alarms = sum(bool(watch_training(HEALTHY[i % len(HEALTHY)], 5000 + i).findings) for i in range(180))
    assert alarms == 0
