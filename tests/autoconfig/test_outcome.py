"""The task that answers and labels look like; where it is open, that is said."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collapsekit.autoconfig.running.outcome import find_outcome, fit_task

N, R = 40, 7


def classes(count: int, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, count, (N, *shape), generator=g)


def numbers(*shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(1))


def answer(*shape: int) -> Tensor:
    return torch.randn(R, *shape, generator=torch.Generator().manual_seed(2))


def with_gaps(labels: Tensor) -> Tensor:
    out = labels.clone()
    out[:, :2] = -100
    return out


def times() -> Tensor:
    return torch.stack([numbers().abs() + 0.1, classes(2).float()], 1)


CASES: dict[str, tuple[Tensor, Tensor, str | None]] = {
    "classes": (answer(5), classes(5), "classification"),
    "classes, labels of (n, 1)": (answer(5), classes(5, 1), "classification"),
    "one logit": (answer(), classes(2), "classification"),
    "class numbers that are floating": (answer(5), classes(5).float(), None),
    "more classes than outputs": (answer(3), classes(9), None),
    "numbers": (answer(), numbers(), "regression"),
    "numbers of (n, 1)": (answer(1), numbers(), "regression"),
    "chunks of actions": (answer(8, 2), numbers(8, 2), "regression"),
    "ages, whole numbers and one output": (answer(1), classes(90), "regression"),
    "numbers with gaps": (answer(3), numbers(3).masked_fill(numbers(3) > 1, torch.nan), "regression"),
    "values and as many outputs, but another shape": (answer(3), numbers(4), None),
    "labels 0 and 1": (answer(6), classes(2, 6).float(), "multilabel"),
    "labels 0 and 1, whole": (answer(6), classes(2, 6), "multilabel"),
    "one label 0 or 1, floating": (answer(1), classes(2, 1).float(), "multilabel"),
    "times and events": (answer(1), times(), "survival"),
    "two values are no time and event": (answer(1), numbers(2), None),
    "pairs of 0 and 1 are no time and event": (answer(1), classes(2, 2).float(), None),
    "tokens": (answer(6, 30), with_gaps(classes(30, 6)), "tokens"),
    "places of a sequence, nothing left out": (answer(6, 30), classes(30, 6), None),
    "maps": (answer(4, 8, 8), classes(4, 8, 8), "dense"),
    "maps, some ignored": (answer(4, 8, 8), classes(4, 8, 8).masked_fill(classes(4, 8, 8) == 3, 255), "dense"),
    "maps, channels last": (answer(8, 8, 4), classes(4, 8, 8), "dense"),
    "volumes": (answer(3, 4, 5, 6), classes(3, 4, 5, 6), "dense"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_forms_say(case: str) -> None:
    out, labels, task = CASES[case]
    found = fit_task(out, labels)
    assert (found[0] if found else None) == task


def test_channels_that_come_last_are_set() -> None:
    found = fit_task(*CASES["maps, channels last"][:2])
    assert found is not None
    assert found[2] == {"channels": "last"}


def test_tokens_that_go_in_are_known_again() -> None:
    labels = classes(30, 6)
    assert fit_task(answer(6, 30), labels, [labels.clone()]) == ("tokens", "labels are the 6 tokens that go in", {})


def test_inputs_that_hold_the_answer_are_told() -> None:
    labels = with_gaps(classes(30, 6))
    whole = classes(30, 6)
    behind = torch.cat([torch.ones(N, 1, dtype=torch.long), whole[:, :-1]], 1)
    columns = {"labels": labels, "ids": whole, "decoder_ids": behind, "others": whole.flip(0)}
    found = find_outcome(answer(6, 30), R, columns, ["labels"], ["ids", "decoder_ids", "others"])
    assert (found.task, found.inside) == ("tokens", ("ids", "decoder_ids"))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 5), max_size=2),
    st.lists(st.integers(1, 5), max_size=2),
    st.lists(st.floats(-1e3, 1e3).filter(lambda v: v != round(v)), min_size=1, max_size=4),
)
def test_a_regressor_is_never_called_classification(out: list[int], shape: list[int], values: list[float]) -> None:
    labels = torch.tensor(values, dtype=torch.float64).repeat(N)[:N].reshape(N, *[1] * len(shape)).expand(N, *shape)
    found = fit_task(answer(*out), labels)
    assert found is None or found[0] in ("regression", "survival")


class Held(OrderedDict[str, Tensor]):
    """As model outputs of transformers: a mapping with attributes."""


OUTPUTS: list[tuple[Any, dict[str, Tensor], str | None, Any]] = [
    (answer(5), {"label": classes(5)}, "classification", None),
    ((answer(5), answer(2)), {"label": classes(5)}, "classification", None),
    ((answer(2), answer(5)), {"label": classes(5)}, "classification", 1),
    (Held(hidden=answer(9, 8), logits=answer(5)), {"label": classes(5)}, "classification", None),
    ({"labels": answer(20), "ctr": answer(1)}, {"label": classes(2, 20).float()}, "multilabel", "labels"),
    ((answer(3), answer(4)), {"label": numbers(7)}, "regression", (0, 1)),
    ((answer(6), answer(6), torch.tensor(2.0)), {}, "retrieval", (0, 1)),
    (
        Held(logits_per_image=answer(R), logits_per_text=answer(R), text_embeds=answer(6), image_embeds=answer(6)),
        {},
        "retrieval",
        ("text_embeds", "image_embeds"),
    ),
    (
        Held(one=answer(9), other=answer(9), text_embeds=answer(6), image_embeds=answer(6)),
        {},
        "retrieval",
        ("text_embeds", "image_embeds"),
    ),
    ([{"boxes": answer(4)} for _ in range(R)], {"targets": numbers(4)}, None, None),
]


@pytest.mark.parametrize(("output", "columns", "task", "part"), OUTPUTS, ids=map(str, range(len(OUTPUTS))))
def test_which_part_of_the_output(output: Any, columns: dict[str, Tensor], task: str | None, part: Any) -> None:
    found = find_outcome(output, R, columns, list(columns), [])
    assert (found.task, found.output) == (task, part)
    if task is None:
        assert "the model returns list, and what may be labels is targets (n, 4) float32" in found.seen


def test_a_label_is_known_by_name_or_by_being_the_only_one_left() -> None:
    columns = {"path": classes(100), "gt": classes(5), "weight": numbers()}
    assert find_outcome(answer(5), R, columns, list(columns), []).label == "gt"
    assert find_outcome(answer(5), R, {"mark": classes(5)}, ["mark"], []).label == "mark"
    left = find_outcome(answer(5), R, {"mark": classes(5), "fold": classes(3)}, ["mark", "fold"], [])
    assert (left.task, left.label) == (None, None)
    assert "(n, 5)" in left.seen
