"""How many other examples are enough: more are taken until no share of the credit moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from collapsekit.features.features import Features
from collapsekit.games.coalitions import EXACT_UP_TO, KEPT, CoalitionGame, answer_bytes, shapley_values
from collapsekit.interventions.marginal import shifts

FEWEST = 8  # other examples of the first round
SLIGHT = (
    0.02  # part of all credit that a modality's may move by from half as many other examples on: no verdict rests on it
)


def may_stop_early(features: Features, n: int, most: int, *, sets: bool) -> bool:
    """Tell whether it can be found out if fewer draws than the default do: where all answers are kept meanwhile.

    Args:
        features: examples such as are asked about.
        n: how many.
        most: draws by default.
        sets: whether the task expects sets of examples.

    Returns:
        Whether ``choose_draws`` is to be asked.
    """
    size = len(features.modalities)
    if size > EXACT_UP_TO or features.alike is not None or sets:
        return False
    return n > most and len(_rounds(most)) > 1 and answer_bytes(features, n, 2 * most << size) <= KEPT


def count_asked(n: int, most: int, *, whole: bool) -> int:
    """Count the questions about a coalition over all rounds, and with ``whole`` about those absent from it.

    Args:
        n: examples.
        most: draws at which rounds end.
        whole: whether an example may be taken whole for another, so that a draw and its inverse are one question.

    Returns:
        How many at most.
    """
    asked = set[tuple[bool, int]]()
    for count in _rounds(most):
        turns = set(shifts(n, count))
        asked |= {(False, turn) for turn in turns}
        asked |= {(True, turn) for turn in turns if n - turn not in turns} if whole else set()
    return len(asked)


def find_draws(most: int, wanted: int | Literal["enough"] | None, make: Callable[[int], CoalitionGame]) -> int:
    """Find how many other examples an absent modality is taken from.

    Args:
        most: as many as are asked for, or by default.
        wanted: what the options ask for.
        make: the game over so many draws; it remembers what it valued.

    Returns:
        ``most``, or as many as are enough.
    """
    if wanted != "enough":
        return most
    game = make(most)
    sets = game.adapter.task.expects_sets
    stops = may_stop_early(game.features, len(game.features), most, sets=sets)
    return choose_draws(make, most) if stops else most


def choose_draws(make: Callable[[int], CoalitionGame], most: int) -> int:
    """Take twice as many other examples until no modality's share of the credit moves more than a verdict minds.

    The loss of a mean over d draws is too high by about c / d, which raises all credits, of a balanced reference too that
    takes the same others. What verdicts rest on are shares. From d draws to all of them they move by about what they moved
    from d / 2 to d.

    Args:
        make: the game over so many draws, which are among those of twice as many.
        most: draws at which it ends.

    Returns:
        How many are enough.
    """
    before: Tensor | None = None
    for count in _rounds(most):
        if count == most:  # whoever asks will value it
            break
        credit = find_credits(make(count))[:, 0]
        shares = credit / credit.abs().sum(0).clamp_min(torch.finfo(credit.dtype).tiny)
        if before is not None and float((shares - before).abs().max()) <= SLIGHT:
            return count
        before = shares
    return most


def _rounds(most: int) -> list[int]:
    """Numbers of draws, each twice the one before, up to ``most``; draws of one round are among those of the next."""

    def halves() -> Iterator[int]:
        count = most
        yield count
        while count % 2 == 0 and count // 2 >= FEWEST:
            count //= 2
            yield count

    return sorted(halves())


def find_credits(game: CoalitionGame) -> Tensor:
    """Find credits in the loss, over all examples and without each jackknife group: (modalities, 1+G)."""
    return shapley_values(lambda mask: -game.value(mask).loss, game.size, 2, 0)[0]
