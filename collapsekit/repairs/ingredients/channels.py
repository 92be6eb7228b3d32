"""What encoders give the training examples, channel by channel, and how much each channel says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from collapsekit.adapters.base import Change
from collapsekit.adapters.pooling import Channels, pool_features
from collapsekit.errors import ConfigError
from collapsekit.io.transfer import named_to_cpu, to_cpu, to_device
from collapsekit.repairs.training.job import CHUNK, Job
from collapsekit.stats.linalg.exchange import channel_scores

Score = Literal["energy", "std", "magnitude", "spectral", "gradient", "random"]


def _last(job: Job, modality: str, x: Tensor) -> Tensor:
    """What an encoder gave, channels last."""
    return x.movedim(job.adapter.channel_axis(modality, x), -1)


def _recorded(job: Job, rows: Tensor) -> dict[str, Tensor]:
    """Features of training rows as the encoders give them, before any exchange, channels last."""
    adapter, batch = job.adapter, job.batch(rows)
    with torch.no_grad():
        recorded = adapter.run(batch).recorded
    return named_to_cpu({m: _last(job, m, adapter.features_of(m, recorded[m])) for m in adapter.modalities})


def widths_of(job: Job) -> dict[str, int]:
    """Count how many channels each encoder gives. Raises ConfigError for one number an example."""
    seen = _recorded(job, job.at.fit[:2])
    for m, x in seen.items():
        _need_channels(m, x)
    return {m: x.shape[-1] for m, x in seen.items()}


def layouts_of(job: Job) -> dict[str, Channels]:
    """Tell where each encoder's features hold their channels; None where neither config nor layers say."""
    with torch.no_grad():
        recorded = job.adapter.run(job.batch(job.at.fit[:2])).recorded
    return {m: job.adapter.layout(m, job.adapter.features_of(m, recorded[m])) for m in job.adapter.modalities}


def _need_channels(modality: str, features: Tensor) -> None:
    if features.ndim < 2:
        raise ConfigError(f"the encoder of {modality!r} gives one number an example, which has no channels to work on.")


def features_of(job: Job) -> dict[str, Tensor]:
    """Record the features (n, ..., c) of all n training examples, by modality.

    Raises ConfigError for one number an example.
    """
    job.adapter.model.eval()
    parts = [_recorded(job, rows) for rows in job.at.fit.split(CHUNK)]
    features = {m: torch.cat([part[m] for part in parts]) for m in job.adapter.modalities}
    for m, x in features.items():
        _need_channels(m, x)
    return features


def pooled(job: Job, modality: str, x: Tensor) -> Tensor:
    """Pool features to one value a channel, as the config says (flattened ones by the mean).

    Args:
        job: The repair's job, with the masks of the training examples.
        modality: The modality that the features are of.
        x: Features (n, ..., c) of all n training examples.

    Returns:
        (n, c), float64.
    """
    how, keep = job.adapter.config.modalities[modality].pool, _keep(job, modality, x)
    return pool_features(x, "auto" if how == "flatten" else how, "last", keep, f"modality {modality!r}").double()


def _keep(job: Job, modality: str, x: Tensor) -> Tensor | None:
    """Which tokens of all training examples count (n, t); None where all do."""
    mask = job.adapter.config.modalities[modality].mask
    if mask is None or x.ndim < 3:
        return None
    return job.at.train.inputs[mask][job.at.fit].reshape(len(x), -1) > 0


def scores_of(job: Job, features: Mapping[str, Tensor], how: Score) -> dict[str, Tensor]:
    """Score how much each channel says; the lowest say least.

    ``gradient``: mean absolute value of activation times gradient of the example's task loss; ``random``: drawn;
    others: see ``channel_scores``, tokens where there are some.

    Args:
        job: The repair's job.
        features: Features (n, ..., c) of all n training examples, by modality.
        how: The score.

    Returns:
        Scores (c,) by modality, >= 0.
    """
    if how == "random":
        generator = torch.Generator().manual_seed(job.seed)
        by_credit = sorted(features, key=job.credit.__getitem__)  # not by name or place, which may be swapped
        return {m: torch.rand(features[m].shape[-1], generator=generator) for m in by_credit}
    if how == "gradient":
        features = _contributions(job, list(features))
    of = "magnitude" if how == "gradient" else how
    return {m: _score(x, _keep(job, m, x), of) for m, x in features.items()}


def _score(x: Tensor, keep: Tensor | None, how: str) -> Tensor:
    x = x.flatten(1, -2) if x.ndim > 2 else x
    if keep is not None:
        x = x * keep[..., None]
    if x.ndim == 3 and x.shape[1] == 1:
        x, keep = x[:, 0], None  # one token has no spread of its own
    if bool((x == x[:1]).all()):
        return torch.zeros(x.shape[-1])  # a dead encoder: no channel says less than another
    return channel_scores(x, how, keep)


def _contributions(job: Job, modalities: list[str]) -> dict[str, Tensor]:
    """Activation times gradient of the example's task loss (n, ..., c), channels last, of all training examples, the
    model in eval mode as ``features_of`` left it."""
    parts: dict[str, list[Tensor]] = {m: [] for m in modalities}
    places = {m: _place(job, m) for m in modalities}
    for rows in job.at.fit.split(CHUNK):
        ones: dict[str, list[Tensor]] = {m: [] for m in modalities}
        live = job.adapter.run_live(job.batch(rows), {m: _scaling(ones[m]) for m in modalities})
        targets = to_device(job.at.train.targets[rows], live.outputs.device)
        loss = job.adapter.task.training_loss(live.outputs, targets) * len(rows)
        chosen = [ones[m][places[m]] for m in modalities]
        found = torch.autograd.grad(loss, chosen, allow_unused=True, materialize_grads=True)
        for m, g in zip(modalities, to_cpu(found), strict=True):
            parts[m].append(_last(job, m, g))
    return {m: torch.cat(held) for m, held in parts.items()}


def _scaling(ones: list[Tensor]) -> Change:
    """Multiply by ones, whose gradient is activation times gradient."""

    def change(features: Tensor) -> Tensor:
        ones.append(torch.ones_like(features, requires_grad=True))
        return features * ones[-1]

    return change


def _place(job: Job, modality: str) -> int:
    """Which of the floating tensors that an encoder gives, in order, is its features."""
    with torch.no_grad():
        recorded = job.adapter.run(job.batch(job.at.fit[:2])).recorded[modality]
    return job.adapter.floating_index(modality, recorded)
