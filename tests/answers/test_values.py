"""Answers as numbers, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from collapsekit.answers.manifest import AnswerShape
from collapsekit.answers.values import DOUBT, UnfitError, normalise, to_numbers

CLASSES = AnswerShape(kind="classes", width=3, choices=("yes", "no", "not sure"))
TWO = AnswerShape(kind="classes", width=2)
LABELS = AnswerShape(kind="labels", width=2)
VALUES = AnswerShape(kind="values", width=2)


def softmax(row: list[float]) -> list[float]:
    total = sum(map(math.exp, row))
    return [math.exp(x) / total for x in row]


@pytest.mark.parametrize(
    ("answer", "chances"),
    [
        ({"probs": [0.2, 0.5, 0.3]}, [0.2, 0.5, 0.3]),
        ({"logprobs": [math.log(0.2), math.log(0.5), math.log(0.3)]}, [0.2, 0.5, 0.3]),
        ({"scores": [0, math.log(3), 0]}, [0.2, 0.6, 0.2]),
        ({"probs": {"no": 0.5, "yes": 0.2, "not sure": 0.3}}, [0.2, 0.5, 0.3]),
        # Two spellings of one choice add up; what is not listed gets an even part of what is left.
        ({"logprobs": {"Yes": math.log(0.5), " yes": math.log(0.3), "no": math.log(0.1)}}, [0.8, 0.1, 0.1]),
        ({"text": " No."}, [DOUBT / 2, 1 - DOUBT, DOUBT / 2]),
        ({"tokens": {"no": math.log(0.9), "yes": math.log(0.06)}, "text": "yes"}, [0.06, 0.9, 0.04]),
        ({"tokens": {"not": -0.1, "n": -3.0}, "text": "Not sure"}, [DOUBT / 2, DOUBT / 2, 1 - DOUBT]),
    ],
)
def test_classes_are_what_the_answer_says(answer: dict[str, Any], chances: list[float]) -> None:
    row = to_numbers(answer, CLASSES)
    assert row is not None
    assert softmax(row) == pytest.approx(chances, abs=1e-9)


def test_one_number_of_two_classes_is_the_second_against_the_first() -> None:
    assert to_numbers({"scores": 1.5}, TWO) == [0.0, 1.5]
    assert softmax(to_numbers({"probs": [0.8]}, TWO) or []) == pytest.approx([0.2, 0.8])


def test_labels_are_logits_and_values_are_values() -> None:
    sigmoid = [1 / (1 + math.exp(-x)) for x in to_numbers({"probs": [0.25, 0.9]}, LABELS) or []]
    assert sigmoid == pytest.approx([0.25, 0.9])
    sigmoid = [1 / (1 + math.exp(-x)) for x in to_numbers({"logprobs": [math.log(0.25), -0.1]}, LABELS) or []]
    assert sigmoid == pytest.approx([0.25, math.exp(-0.1)])
    assert to_numbers({"value": [1, -2.5]}, VALUES) == [1.0, -2.5]


@pytest.mark.parametrize(
    ("answer", "shape", "why"),
    [
        ({"scores": [1, 2]}, CLASSES, "2 scores, expected 3"),
        ({"scores": [1, 2, True]}, CLASSES, "no finite numbers"),
        ({"probs": [0.5, 0.5, 1.5]}, CLASSES, "outside of 0 to 1"),
        ({"scores": [1, 2, 3], "text": "no"}, CLASSES, "scores and text"),
        ({"value": 3}, CLASSES, "value"),
        ({"text": "no"}, TWO, "answers.choices"),
        ({"probs": {"a": 1.0}}, CLASSES, "no probability"),
        ({"text": 3}, CLASSES, "no text"),
        ({"probs": [0.5, 0.5]}, VALUES, "of numbers"),
        ({}, CLASSES, "no answer"),
    ],
)
def test_what_is_of_another_kind_says_so(answer: dict[str, Any], shape: AnswerShape, why: str) -> None:
    with pytest.raises(UnfitError, match=why):
        to_numbers(answer, shape)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("yes", "yes"),
        ("  **YES**!", "yes"),
        ("Answer: not sure", "not sure"),
        ("I think no", "no"),
        ("yes and no", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_a_text_names_one_choice_or_none(text: str, choice: str | None) -> None:
    assert normalise(text, CLASSES.choices) == choice
