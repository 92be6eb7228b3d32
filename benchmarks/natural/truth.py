"""The truth of a modality in a model, from losses of examples alone. The margins stood before any verdict was looked at.

Shares are of the prior's loss. What could be had from a modality is found by training: ``alone`` is what the best model of
it alone gains over the prior, ``added`` what the best model of all gains over the best of all others. What a model has of
it is found by exchanging it among test examples: ``use``, and ``due`` the same of the best model that a recipe made.

- nothing: the best gains under 2 % from it, alone and added;
- ignored: there are at least 5 %, alone or added, and the model has under 15 % of its due;
- used: the same, and the model has at least 40 % of its due;
- between: anything else, and where the due itself is under 1 %: no recipe's model uses it either. That is not judged;
- unsure: in more than one of twenty resamples of the examples it is not the same. That is left out, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

NOTHING, SOMETHING, DUE = 0.02, 0.05, 0.01
IGNORED, USED = 0.15, 0.40
SURE = 0.95
RESAMPLES = 1000
STATES = ("used", "between", "ignored", "nothing", "unsure")


@dataclass(frozen=True)
class Evidence:
    """Losses and gains (n,) of the same test examples, float64."""

    prior: Tensor
    alone: Tensor
    added: Tensor
    due: Tensor
    use: Tensor


@dataclass(frozen=True)
class Truth:
    """The state; shares of the prior's loss; use over due; how many resamples agree."""

    state: str
    alone: float
    added: float
    due: float
    use: float
    ratio: float
    agreed: float
    otherwise: str  # the state of the examples as they are, also where it is not sure


def truth(evidence: Evidence, seed: int = 0) -> Truth:
    """Decide one modality of one model; resampling over examples says whether it is sure."""
    columns = torch.stack([getattr(evidence, f.name).double() for f in fields(Evidence)], 1)
    n = len(columns)
    rows = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed))
    resampled = torch.stack([columns[r].mean(0) for r in rows])
    mean = columns.mean(0)
    found = _state(*mean.tolist())
    agreed = sum(_state(*row) == found for row in resampled.tolist()) / RESAMPLES
    prior, alone, added, due, use = mean.tolist()
    return Truth(
        found if agreed >= SURE else "unsure",
        alone / prior,
        added / prior,
        due / prior,
        use / prior,
        use / due if due > 0 else 0.0,
        agreed,
        found,
    )


def _state(prior: float, alone: float, added: float, due: float, use: float) -> str:
    something = max(alone, added) / prior
    if something < NOTHING:
        return "nothing"
    if something < SOMETHING or due < DUE * prior:
        return "between"
    ratio = use / due
    return "ignored" if ratio < IGNORED else "used" if ratio >= USED else "between"
