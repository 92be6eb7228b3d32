"""Tokens: sequences that a causal or sequence-to-sequence model answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from collapsekit.errors import ConfigError, DataError, NumericsError
from collapsekit.registry import task
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE, Bounds
from collapsekit.stats.linear import Linear
from collapsekit.tasks.base import FLOOR
from collapsekit.tasks.places import Places

IGNORED = -100  # the label of a position that is no target; any label below 0 is taken for one
WIDEST = 8192  # numbers an example up to which the probability of every known answer token is kept
MOST_TARGETS = 0.5  # an input with more of the targets than this share, each in its place, holds the answers
METRICS = ("token_accuracy", "exact_match", "perplexity")
BOUNDS = {"token_accuracy": SHARE, "exact_match": SHARE, "perplexity": Bounds(high=-1.0)}


@task("tokens", summary="a sequence of tokens; cross-entropy of targets; token accuracy, exact match or perplexity")
class Tokens(Places):
    """Logits (n, T, V) and labels (n, T), below 0 where a position is no target; each target's own cross-entropy, mean over
    an example's targets.

    Outputs are kept for target positions alone, S of them, the most that an example has. Where training answers are made of
    K tokens, few enough, the probability of each of these is kept and of all others together: then there is a best constant
    answer (how often each token is at each place of training answers) and a linear readout. Else the probability of the
    right token is kept, and whether it is the likeliest, and nothing can be due to a modality.
    """

    needs_targets = learns = True
    loss_bounds = NOT_NEGATIVE
    loss_name = "cross-entropy, mean over target tokens (nats)"

    def __init__(self, metric: str | None = None, shift: bool | None = None) -> None:
        self._chosen = metric or METRICS[0]
        if self._chosen not in METRICS:
            raise ConfigError(f"metric {metric!r} is not one of {', '.join(METRICS)} for this task.")
        self.metric_name = {"perplexity": "negative perplexity"}.get(self._chosen, self._chosen)
        self.metric_bounds, self.shift = BOUNDS[self._chosen], shift
        self.vocabulary: Tensor | None = None  # token ids of training answers, sorted, where all of them are kept

    @classmethod
    def create(cls, *, metric: str | None, temperature: float, shift: bool | None = None) -> Self:
        del temperature
        if not isinstance(shift, bool | None):
            raise ConfigError(
                f"task_options shift is {shift!r}, expected true (a position's logits are for the label of the next one) or "
                "false (for its own)."
            )
        return cls(metric, shift)

    def for_model(self, model: nn.Module) -> Self:
        """Shift by default, as causal models do, but for one whose ``config.is_encoder_decoder`` is true."""
        if self.shift is None:
            self.shift = getattr(getattr(model, "config", None), "is_encoder_decoder", False) is not True
        return self

    def learn(self, labels: Mapping[str, Tensor]) -> None:
        """Count the targets an example has at most, and list the tokens of training answers where these are few."""
        counted = [self._targets(y) for y in labels.values()]
        self.places = max(1, *(int((y >= 0).sum(1).max()) for y in counted))
        answers = self._targets(labels["train"]) if "train" in labels else torch.cat([y.reshape(-1) for y in counted])
        tokens = answers[answers >= 0].unique()
        closed = len(tokens) > 0 and self.places * (len(tokens) + 1) <= WIDEST
        self.vocabulary = tokens.cpu() if closed else None
        self.classes = len(tokens) + 1 if closed else 2

    def _targets(self, labels: Tensor) -> Tensor:
        """Labels (n, T) of the positions that have logits."""
        if labels.ndim != 2 or labels.is_floating_point():
            raise DataError(
                f"labels have shape {tuple(labels.shape)} ({str(labels.dtype).removeprefix('torch.')}): task 'tokens' needs "
                f"a token number at each position, (n, T), {IGNORED} where a position is no target."
            )
        return labels[:, 1:].long() if self.shift is not False else labels.long()

    def read(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        targets = _within(targets, prediction)
        if prediction.ndim != 3 or prediction.shape[1] != targets.shape[-1]:
            raise ConfigError(
                f"the model's output has shape {tuple(prediction.shape)}, its labels {tuple(targets.shape)}: task 'tokens' "
                "reads logits (n, T, V) at each position of labels (n, T); name the logits with `output`, and give labels "
                "of all positions, the prompt's as -100."
            )
        labels = self._targets(targets)
        places, counts = self._first(labels)
        logits = prediction[:, : labels.shape[1]].gather(1, places[..., None].expand(-1, -1, prediction.shape[2]))
        ids = labels.gather(1, places).clamp_min(0)
        self._need_below(ids, prediction.shape[2])
        log_p = logits.float().log_softmax(2)
        scores = (
            self._of_right(log_p, ids)
            if self.vocabulary is None
            else self._of_known(log_p, self.vocabulary.to(log_p.device))
        )
        return torch.where(counts[..., None], scores, 0.0).flatten(1)

    def to_features(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        return self.read(prediction, targets)  # at target places alone: how long a batch is does not matter

    def _first(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of an example's targets in their order, (n, S), and which of these there are."""
        there = labels >= 0
        wide = nn.functional.pad(there, (0, max(0, self.places - labels.shape[1])))
        order = (~wide).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.places]
        return order.clamp_max(labels.shape[1] - 1), wide.gather(1, order)

    def _need_below(self, ids: Tensor, size: int) -> None:
        most = max(int(ids.max()), -1 if self.vocabulary is None else int(self.vocabulary.max()))
        if most >= size:
            raise DataError(
                f"label {most} is no token of the model, which has {size}: check data.label, and mark positions that "
                f"are no target with {IGNORED}."
            )

    @staticmethod
    def _of_right(log_p: Tensor, ids: Tensor) -> Tensor:
        """Of the right token: its log-probability, and whether it is the likeliest; (n, S, 2)."""
        own = log_p.gather(2, ids[..., None])
        return torch.cat([own.clamp_min(_LEAST), (log_p.argmax(2, keepdim=True) == ids[..., None]).to(own.dtype)], 2)

    @staticmethod
    def _of_known(log_p: Tensor, vocabulary: Tensor) -> Tensor:
        """Log-probabilities of the known tokens, and of all others together; (n, S, K + 1)."""
        others = torch.ones(log_p.shape[2], dtype=torch.bool, device=log_p.device).index_fill(0, vocabulary, False)
        rest = log_p[..., others].logsumexp(2, keepdim=True) if bool(others.any()) else log_p[..., :1] * 0 + _LEAST
        return torch.cat([log_p[..., vocabulary], rest], 2).clamp_min(_LEAST)

    def answers_in(self, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[str, ...]:
        return tuple(key for key, value in inputs.items() if _answer_places(value, labels) is not None)

    def hide_answers(self, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        places = {key: _answer_places(value, labels) for key, value in inputs.items()}
        return {k: v if (p := places[k]) is None else v.masked_fill(p, 0) for k, v in inputs.items()}

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        labels = self._targets(targets)
        places, counts = self._first(labels)
        ids = torch.where(counts, labels.gather(1, places), -1)
        self.need_some(ids, split, "target token")
        if self.vocabulary is None:
            return torch.where(counts, ids, -1)
        place = torch.searchsorted(self.vocabulary, ids.clamp_min(0)).clamp_max(len(self.vocabulary) - 1)
        return torch.where(counts, torch.where(self.vocabulary[place] == ids, place, len(self.vocabulary)), -1)

    # Where answers are open, expectations are pairs: the right token's probability, and the share of draws in which it is
    # the likeliest.

    def expect(self, outputs: Tensor) -> Tensor:
        if self.vocabulary is not None:
            return super().expect(outputs)
        pairs = self.apart(outputs.double())
        return torch.stack([pairs[..., 0].exp(), pairs[..., 1]], 2).flatten(1)

    def of_targets(self, expected: Tensor, targets: Tensor) -> Tensor:
        return self.apart(expected)[..., 0] if self.vocabulary is None else super().of_targets(expected, targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.vocabulary is not None:
            return super().training_loss(outputs, targets)
        counts = targets >= 0
        return (-(self.apart(outputs)[..., 0] * counts).sum(1) / counts.sum(1)).mean()

    def _right(self, expected: Tensor, targets: Tensor) -> Tensor:
        """How right the answer is at each place, (n, S), 0 to 1."""
        if self.vocabulary is None:
            return self.apart(expected)[..., 1]
        chosen = self.apart(expected)[..., :-1].argmax(2)  # among the known tokens, as all others together are none
        return (chosen == targets).double()

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        counts = targets >= 0
        if self._chosen == "exact_match":
            return float(self._whole(expected, targets).double().mean())
        if self._chosen == "token_accuracy":
            return float(self._right(expected, targets)[counts].mean())
        return -float((-self.of_targets(expected, targets)[counts].clamp_min(FLOOR).log().mean()).exp())

    def choose(self, expected: Tensor) -> Tensor | None:
        if self.vocabulary is None:  # of open answers it is not kept what was said
            return None
        return self.apart(expected)[..., :-1].argmax(2)  # among the known tokens, as the metric does

    def _whole(self, expected: Tensor, targets: Tensor) -> Tensor:
        return ((self._right(expected, targets) > 0.5) | (targets < 0)).all(1)

    def hits(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        return self._whole(expected, targets) if self._chosen == "exact_match" else None

    def effective_count(self, targets: Tensor) -> float:
        return float(len(targets))

    def choices_of(self, outputs: Tensor) -> int:
        return 1 if self.vocabulary is None else self.classes

    def prior(self, targets: Tensor, width: int) -> Tensor:
        self._need_closed()
        return super().prior(targets, width)

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        self._need_closed()
        return super().fit_linear(x, targets, width, l2)

    def _need_closed(self) -> None:
        if self.vocabulary is None:
            raise NumericsError(
                f"training answers of up to {self.places} tokens are made of too many different ones for a best constant "
                f"answer and readouts: there may be {WIDEST} numbers an example, tokens an answer times different tokens"
            )

    def to_natural(self, expected: Tensor) -> Tensor:
        return expected if self.vocabulary is None else super().to_natural(expected)

    def from_natural(self, natural: Tensor) -> Tensor:
        return natural if self.vocabulary is None else super().from_natural(natural)


def _answer_places(value: Tensor, labels: Tensor) -> Tensor | None:
    """Which positions of an input hold the targets of labels (n, T), bool (n, T); None where most targets are not in it."""
    if value.is_floating_point() or value.shape != labels.shape or labels.ndim != 2:
        return None
    there = labels >= 0
    later = nn.functional.pad(there[:, :-1], (1, 0))  # as decoders are given them, one position later
    for places, targets in ((there, labels), (later, labels.roll(1, 1))):
        same = (value == targets)[places]
        if len(same) and float(same.double().mean()) > MOST_TARGETS:
            return places
    return None


def _within(targets: Tensor, prediction: Tensor) -> Tensor:
    """Labels (n, T) without a tail in which no example has a target, where the logits of this forward end before it."""
    end = prediction.shape[1] if prediction.ndim == 3 and targets.ndim == 2 else targets.shape[-1]
    return targets[:, :end] if bool((targets[:, end:] < 0).all()) else targets


_LEAST = float(torch.tensor(FLOOR, dtype=torch.float64).log())
