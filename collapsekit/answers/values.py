"""Answers as numbers: scores, probabilities, log-probabilities of choices, values, text. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from collapsekit.answers.manifest import AnswerShape
from collapsekit.io.safe_text import quote, some

LEAST = 1e-30  # a probability below counts as this, as in every loss
LARGEST = 3e38  # of a number, whatever its sign: what float32 holds
DOUBT = 0.02  # probability that a text, which says a choice and not how sure it is, leaves to the other choices
ANSWER_KEYS = ("scores", "logprobs", "probs", "value", "text")  # of which an answer has one


class UnfitError(ValueError):
    """An answer is not of the kind that was asked for; its text is the end of a sentence."""


def to_numbers(answer: Mapping[str, Any], shape: AnswerShape) -> list[float] | None:
    """Make the numbers that the task reads of one answer.

    Args:
        answer: with one of ``ANSWER_KEYS``; or with ``tokens``, log-probabilities of the likeliest first ones, and ``text``;
            or with ``prompts``, by choice a prompt that ends in it, with the log-probability of each of its tokens.
        shape: what was asked for.

    Returns:
        As many numbers as ``shape`` says: for classes logits (log-probabilities are logits too), for labels logits, else
        values. None where a text names no choice, or several.

    Raises:
        UnfitError: for an answer of another kind.
    """
    if "tokens" in answer:
        return _of_tokens(answer["tokens"], answer.get("text"), shape)
    if "prompts" in answer:
        return _of_prompts(answer["prompts"], shape)
    given = [name for name in ANSWER_KEYS if name in answer]
    if len(given) != 1:
        raise UnfitError(f"has {' and '.join(given) or 'no answer'}, expected one of {', '.join(ANSWER_KEYS)}")
    name = given[0]
    if shape.kind == "values" and name not in ("value", "scores"):
        raise UnfitError(f"has {name}, expected value: the task is of numbers")
    if shape.kind != "values" and name == "value":
        raise UnfitError("has value, expected scores, logprobs, probs or text: the task is of classes")
    if name == "text":
        return _of_text(answer[name], shape)
    value = answer[name]
    if isinstance(value, Mapping):
        return _of_choices(value, shape, logs=name != "probs")
    return _of_row(name, _row(value, name), shape)


def _number(value: Any, name: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or abs(value) > LARGEST
    ):
        raise UnfitError(f"has {name} that are no finite numbers")
    return float(value)


def _row(value: Any, name: str) -> list[float]:
    if type(value) is list and all(type(one) is float and -LARGEST <= one <= LARGEST for one in value):
        return value  # as nearly all are
    values = value if isinstance(value, list) else [value]
    return [_number(one, name) for one in values]


def _of_row(name: str, row: list[float], shape: AnswerShape) -> list[float]:
    if name == "probs":
        if not all(0 <= p <= 1 for p in row):
            raise UnfitError("has probs outside of 0 to 1")
        if shape.kind == "labels":
            row = [math.log(max(p, LEAST)) - math.log(max(1 - p, LEAST)) for p in row]
        elif len(row) == 1 and shape.width == 2:
            row = [math.log(max(1 - row[0], LEAST)), math.log(max(row[0], LEAST))]
        else:
            row = [math.log(max(p, LEAST)) for p in row]
    elif name == "logprobs" and shape.kind == "labels":
        row = [p - math.log(max(-math.expm1(min(p, 0.0)), LEAST)) for p in row]
    if shape.kind == "classes" and len(row) == 1 and shape.width == 2:
        row = [0.0, row[0]]  # one logit: the second class against the first
    if len(row) != shape.width:
        raise UnfitError(f"has {len(row)} {name}, expected {shape.width}")
    return row


def _of_choices(value: Mapping[str, Any], shape: AnswerShape, *, logs: bool) -> list[float]:
    """Log-probabilities in the order of choices; tokens that normalise to one choice are added up. A choice that is not
    among the likeliest tokens gets an even part of what is left, and no more than the least of these."""
    if not shape.choices:
        raise UnfitError("has probabilities by name, and the config names no `answers.choices`")
    chances = dict.fromkeys(shape.choices, 0.0)
    listed = total = 0.0
    least = 1.0
    for token, one in value.items():
        number = _number(one, "probabilities")
        chance = min(1.0, math.exp(min(number, 0.0)) if logs else max(number, 0.0))
        total, least = total + chance, min(least, chance)
        choice = normalise(token, shape.choices)
        if choice is not None:
            chances[choice] += chance
            listed += chance
    if not listed:
        raise UnfitError("has no probability for any of the choices")
    lacking = sum(not chance for chance in chances.values())
    rest = min(least, max(0.0, 1 - total) / lacking) if lacking else 0.0
    return [math.log(max(chance or rest, LEAST)) for chance in chances.values()]


def _of_tokens(tokens: Any, text: Any, shape: AnswerShape) -> list[float] | None:
    """By the first token, where a choice is one token; else by the text."""
    if shape.kind != "classes":
        raise UnfitError("has text, expected numbers: a chat answers by one choice")
    if isinstance(tokens, Mapping) and any(_plain(str(t)) in map(_plain, shape.choices) for t in tokens):
        return _of_choices(tokens, shape, logs=True)
    return _of_text(text, shape)


def _of_prompts(prompts: Any, shape: AnswerShape) -> list[float]:
    """Log-probabilities of the choices: of the tokens from where prompts that differ in the choice alone part."""
    if shape.kind != "classes" or not isinstance(prompts, Mapping):
        raise UnfitError("has prompts, expected numbers: log-probabilities of prompts are of choices, by name")
    named = {_plain(str(choice)): scored for choice, scored in prompts.items()}
    if named.keys() != set(map(_plain, shape.choices)) or len(named) != len(prompts):
        raise UnfitError(f"has prompts for {some(list(map(quote, prompts)))}, expected one for each of the choices")
    tokens = [_scored_tokens(named[_plain(choice)]) for choice in shape.choices]
    ids = sorted([token for token, _ in one] for one in tokens)
    if any(after[: len(one)] == one for one, after in pairwise(ids)):
        raise UnfitError(
            "has a prompt that another begins with, or the same: let each end in its choice and the end of the turn"
        )
    start = next(i for i, at in enumerate(zip_longest(*ids)) if len(set(at)) > 1)
    sums = [sum(_number(log, "log-probabilities of tokens") for _, log in one[start:]) for one in tokens]
    if max(sums) > 1e-3:
        raise UnfitError("has log-probabilities of tokens above 0")
    most = max(sums)
    total = math.log(sum(math.exp(one - most) for one in sums)) + most
    return [one - total for one in sums]


def _scored_tokens(scored: Any) -> list[tuple[str, Any]]:
    """Each token of a prompt as vLLM has it, with its log-probability; None for the first, which nothing goes before."""
    scored = scored if isinstance(scored, Mapping) else {"prompt_logprobs": scored}
    entries, ids = scored.get("prompt_logprobs"), scored.get("prompt_token_ids")
    if not isinstance(entries, list) or not (ids is None or (isinstance(ids, list) and len(ids) == len(entries))):
        raise UnfitError("has prompts without prompt_logprobs, or with another number of prompt_token_ids")
    found = []
    for place, entry in enumerate(entries):
        listed = entry if isinstance(entry, Mapping) else {}
        if ids is None and len(listed) > 1:
            raise UnfitError("has log-probabilities of several tokens at a place of a prompt, and no prompt_token_ids")
        token = str(ids[place]) if ids is not None else next(iter(listed), "")
        one = listed.get(token)
        found.append((token, one.get("logprob") if isinstance(one, Mapping) else one))
    return found


def _of_text(text: Any, shape: AnswerShape) -> list[float] | None:
    if not shape.choices:
        raise UnfitError("has text, and the config names no `answers.choices` to read it by")
    if not isinstance(text, str):
        raise UnfitError("has text that is no text")
    choice = normalise(text, shape.choices)
    if choice is None:
        return None
    others = math.log(DOUBT / max(1, shape.width - 1))
    return [math.log(1 - DOUBT) if one == choice else others for one in shape.choices]


def normalise(text: str, choices: Sequence[str]) -> str | None:
    """Find the one choice that a text names, whatever its case and what stands around it.

    Args:
        text: what a model wrote, such as " B." or "Answer: yes".
        choices: what it may name.

    Returns:
        The choice that the text is, or the one that stands in it as words; None where there is none, or several.
    """
    plain = _plain(text)
    spelt = {_plain(choice): choice for choice in choices}
    if plain in spelt:
        return spelt[plain]
    found = {choice for word, choice in spelt.items() if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", plain)}
    return found.pop() if len(found) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" \t\r\n.,:;!?\"'`*()[]").split())
