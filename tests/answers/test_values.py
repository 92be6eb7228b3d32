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


# --- log-probabilities of prompts, as vLLM's RequestOutput has them


def prompt(*tokens: tuple[int, float]) -> dict[str, Any]:
    """A prompt of the question's tokens 7 and 8, and these: its first token has none before it."""
    entries: list[Any] = [None]
    for token, log in [(8, -700.25), *tokens]:
        entries.append({str(token): {"logprob": log, "rank": 3, "decoded_token": "x"}})
        entries[-1]["5"] = {"logprob": -0.5, "rank": 1, "decoded_token": "y"}  # the likeliest, which stands beside it
    return {"prompt_token_ids": [7, 8, *(token for token, _ in tokens)], "prompt_logprobs": entries}


def prompts(**changes: Any) -> dict[str, Any]:
    end = (9, -0.1)
    told = {
        "yes": prompt((20, math.log(0.2)), end),
        "no": prompt((21, math.log(0.5)), end),
        "not sure": prompt((22, math.log(0.6)), (23, math.log(0.5)), end),
    }
    return {"prompts": {**told, **{name.replace("_", " "): one for name, one in changes.items()}}}


def test_choices_are_as_likely_as_their_tokens_together() -> None:
    row = to_numbers(prompts(), CLASSES)
    assert row is not None
    assert softmax(row) == pytest.approx([0.2, 0.5, 0.3])
    turned = dict(reversed(prompts()["prompts"].items()))
    assert to_numbers({"prompts": turned}, CLASSES) == row


def test_what_prompts_share_is_no_part_of_a_choice() -> None:
    """It may be of hundreds of nats, and differ in the last bits from prompt to prompt."""
    noisy = prompts()
    noisy["prompts"]["no"]["prompt_logprobs"][1]["8"]["logprob"] = -703.0
    assert to_numbers(noisy, CLASSES) == to_numbers(prompts(), CLASSES)


def test_prompts_without_ids_have_one_token_a_place() -> None:
    plain = {}
    for name, one in prompts()["prompts"].items():
        entries = one["prompt_logprobs"]
        plain[name] = [None, *({k: v for k, v in entry.items() if k != "5"} for entry in entries[1:])]
    row = to_numbers({"prompts": plain}, CLASSES)
    assert row == to_numbers(prompts(), CLASSES)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"perhaps": prompt((4, -1.0))}, "expected one for each of the choices"),
        ({"yes": prompt((21, math.log(0.5)), (9, -0.1))}, "another begins with, or the same"),
        ({"yes": prompt()}, "another begins with"),
        ({"yes": prompt((20, 3.0))}, "above 0"),
        ({"yes": prompt((20, float("nan")))}, "no finite numbers"),
        ({"yes": {"prompt_logprobs": prompt((20, -1.0))["prompt_logprobs"]}}, "and no prompt_token_ids"),
        (
            {"yes": {"prompt_token_ids": [7, 8, 20, 9], "prompt_logprobs": [None, {}]}},
            "another number of prompt_token_ids",
        ),
        ({"yes": {**prompt((20, -1.0)), "prompt_token_ids": [7, 8, 77]}}, "no finite numbers"),
        ({"yes": None}, "without prompt_logprobs"),
    ],
)
def test_prompts_that_say_no_choices_chance_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UnfitError, match=why):
        to_numbers(prompts(**changes), CLASSES)


@pytest.mark.parametrize("shape", [VALUES, LABELS])
def test_prompts_are_of_choices(shape: AnswerShape) -> None:
    with pytest.raises(UnfitError, match="of choices"):
        to_numbers(prompts(), shape)
