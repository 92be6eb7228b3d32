"""Names for what is wrong between the data and the model: one finding, one sentence, and where to look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from collapsekit_callbacks.pipeline.tally import InputFacts
from collapsekit_callbacks.pipeline.tracing import Effect, Passage

Kind = Literal[
    "missing", "not finite", "constant", "same for every example", "repeated", "masked", "badly scaled", "label leaks",
    "dropped in training", "never reaches the model",
]  # fmt: skip

SEEN = 16  # examples before an input is called the same for all
BLANK = 0.9  # share of examples that hold one single value
FULL = 0.99  # share of a floating input's numbers that equal its highest
LARGE = 10.0  # size of an input: far from what a network is made for
SMALL = 0.02
OFF = 20.0  # how far an input's mean may lie from 0, in its own spread
STILL = 0.02  # spread over examples of what a modality's modules give, as a share of its size
SATURATED = 0.9  # share of outputs at their bounds
SWAMPED = 1e-3  # how much another modality's exchange moves the answers, beside this one's


@dataclass(frozen=True)
class PipelineFinding:
    """Something wrong on the way from a modality's data to the answer.

    ``kind``: its name; ``modality``; ``sentence``: what was seen, and where to look; ``step``: at which it was told.
    """

    kind: Kind
    modality: str
    sentence: str
    step: int


@dataclass(frozen=True)
class Seen:
    """All that is known of one modality when it is judged.

    ``facts``: its inputs; ``hidden``: share of positions that its mask hides, or None; ``leak``: what gives the label away;
    ``moved``: root mean square by which its exchange moved the answers in training mode, at each look; ``moved_in_eval``:
    the same in eval mode, where it was looked at; ``effect``: what its exchange did inside.
    """

    facts: InputFacts | None
    missing: int
    hidden: float | None
    leak: str | None
    moved: tuple[float, ...]
    moved_in_eval: float | None
    effect: Effect | None


@dataclass(frozen=True)
class Places:
    """Lines of the user's own code: ``data``, where examples are made; ``forward``, which finds where a modality's argument
    is read, once that is to be said."""

    data: str
    forward: Callable[[str], str]


def name_inputs(modality: str, seen: Seen, varied: bool, places: Places) -> Iterator[tuple[Kind, str]]:
    """Name what is wrong with a modality's inputs as the model is given them.

    Args:
        modality: Its name.
        seen: What is known of it.
        varied: Whether something else that the model is given, or the label, changed from step to step.
        places: Where to look.

    Returns:
        Kinds and sentences, the surest first.
    """
    facts, look = seen.facts, f"look at {places.data}"
    if facts is None:
        if seen.missing:
            yield "missing", f"{modality} was not given to the model in any of {seen.missing} steps: {look}."
        return
    if not facts.finite:
        yield "not finite", f"{modality} holds NaN or infinity: {look}."
    if facts.examples >= SEEN:
        yield from _name_values(modality, facts, varied, look)
    if seen.hidden is not None and seen.hidden >= 1:
        yield (
            "masked",
            f"the mask of {modality} hides all of its positions: {look}, and whether 1 means kept or hidden.",
        )
    if seen.leak is not None:
        yield "label leaks", f"{modality} gives the label away: {seen.leak}; {look}."


def _name_values(modality: str, facts: InputFacts, varied: bool, look: str) -> Iterator[tuple[Kind, str]]:
    number = facts.examples
    if facts.low == facts.high:
        yield (
            "constant",
            f"{modality} is {facts.low:g} throughout, in all of {number} examples: {look}, and at what prepares it.",
        )
    elif facts.same:
        yield (
            "same for every example",
            f"{modality} is the same in all of {number} examples: {look}, and at the index that it is read by.",
        )
    elif varied and facts.steps >= 3 and facts.repeated >= facts.steps - 1:
        yield (
            "repeated",
            f"{modality} is the same batch in {facts.steps} steps, while the rest changes: {look}, and at what is cached.",
        )
    elif facts.floating and facts.high != 0 and facts.top >= FULL:
        yield (
            "badly scaled",
            f"{facts.top:.1%} of the numbers of {modality} are its highest, {facts.high:g}: they were cut off; {look}.",
        )
    elif facts.floating and facts.blank >= BLANK:
        yield (
            "dropped in training",
            f"{modality} is blank (one single value) in {facts.blank:.0%} of {number} training examples: {look}, and at "
            "what drops modalities.",
        )


def name_way(modality: str, seen: Seen, others: Mapping[str, Seen], places: Places) -> Iterator[tuple[Kind, str]]:
    """Name what is wrong between a modality's inputs and the answers, where the inputs themselves are not to blame.

    Args:
        modality: Its name.
        seen: What is known of it.
        others: The same of the other modalities.
        places: Where to look.

    Returns:
        Kinds and sentences, the surest first.
    """
    if len(seen.moved) >= 2 and not any(seen.moved[-2:]):
        yield _no_answer(modality, seen, places)
        return
    bad = _scale(modality, seen, others)
    if bad is not None:
        yield "badly scaled", f"{bad}: look at {places.data}, and at its normalisation."


def _no_answer(modality: str, seen: Seen, places: Places) -> tuple[Kind, str]:
    same = f"the answers stay the same to the last digit when {modality} is taken from other examples"
    if seen.moved_in_eval:
        return (
            "dropped in training",
            f"{same}, in training mode alone: look at {places.forward(modality)}, and at what drops modalities.",
        )
    effect = seen.effect
    if effect is not None and effect.end is not None:
        end = effect.end
        if end.zero == 1 and seen.facts is not None and is_odd_scale(seen.facts):
            return (
                "badly scaled",
                f"{same}: its change ends at {end.path!r} ({end.kind}), which gives 0 throughout, and "
                f"{_size(modality, seen)}: look at {places.data}, and at its normalisation.",
            )
        why = ", which gives 0 throughout" if end.zero == 1 else ""
        return (
            "never reaches the model",
            f"{same}: its change ends at {end.path!r} ({end.kind}){why}; look at {places.forward(modality)}.",
        )
    where = "it is lost on the way"
    if effect is not None and not effect.entered:
        where = "no layer is given it"
    elif effect is not None and effect.own:
        where = f"what {effect.own[-1].path!r} makes of it changes nothing that follows"
    return "never reaches the model", f"{same}, and {where}: look at {places.forward(modality)}."


def _scale(modality: str, seen: Seen, others: Mapping[str, Seen]) -> str | None:
    """What is wrong with the size of an input, where it also shows inside; None where it does not."""
    facts, effect = seen.facts, seen.effect
    if facts is None or effect is None or not facts.floating or not is_odd_scale(facts):
        return None
    size = _size(modality, seen)
    behind = effect.own[1:]
    full = next((p for p in behind if p.saturated >= SATURATED), None)
    if full is not None and abs(facts.mean) + facts.spread > LARGE:
        return f"{size}, and {full.saturated:.0%} of what {full.path!r} gives is at its bounds"
    last = _last(effect)
    if last is not None and last.variation < STILL:
        return f"{size}, and {last.path!r} gives next to the same for every example"
    if facts.spread > LARGE:
        for other, theirs in others.items():
            if seen.moved[-1:] and theirs.moved[-1:] and 0 < theirs.moved[-1] < SWAMPED * seen.moved[-1]:
                return (
                    f"{size}, and moves the answers {seen.moved[-1] / theirs.moved[-1]:,.0f} times as much as {other}"
                )
    return None


def _last(effect: Effect) -> Passage | None:
    return effect.own[-1] if effect.own else None


def is_odd_scale(facts: InputFacts) -> bool:
    """Tell whether an input's size is far from what a network is made for."""
    size = (facts.mean**2 + facts.spread**2) ** 0.5
    return facts.floating and (size > LARGE or size < SMALL or abs(facts.mean) > OFF * facts.spread)


def _size(modality: str, seen: Seen) -> str:
    assert seen.facts is not None
    facts = seen.facts
    return f"{modality} goes from {facts.low:.4g} to {facts.high:.4g}, {facts.spread:.2g} around a mean of {facts.mean:.3g}"
