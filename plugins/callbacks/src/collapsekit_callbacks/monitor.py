"""Monitor: every k steps of training, how much of the task loss each modality is worth on one held batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from collapsekit.ext import (
    NO_MIXTURE,
    Activations,
    ArraySource,
    Config,
    ConfigError,
    Moments,
    NumericsError,
    build_adapter,
    effective_rank,
    extract,
    marginal_samples,
    seed_everything,
    settle_config,
    singular_values,
    singular_values_svd,
)
from collapsekit_callbacks.undisturbed import device_of, undisturbed, unwrapped

Log = Callable[[Mapping[str, float], int], object]  # where numbers go: values by name, and the step
FUSED = "fused"
HELD = "held batch"
LEAST = 1e-6  # of the loss: increases that sum to less are rounding, and have no shares


class CollapseWarning(UserWarning):
    """A modality has had next to no share of the loss increases for a while."""


class Monitor:
    """Measures a live model on one held batch every ``every`` steps, and hands the numbers to ``log``.

    ``batch``: dict of tensors, first axis the example, label included; taken once, kept on the CPU, always the same. The
    model runs on it whole, so it should be no larger than memory allows. ``config``: what ``collapsekit.diagnose`` takes,
    less ``data.path``: modalities, fusion, task. ``draws``: other examples that a modality is taken from; more of them
    are less noisy, and cost a run of fusion and head each. ``seed``: of those draws.
    ``warn_under``: warn once a modality's share has stayed under it for ``patience`` measurements in a row.

    The model is run when the monitor is made, so that what cannot be measured is said before training starts.
    Raises ConfigError, DataError, NothingEvaluatedError as ``diagnose`` does; ConfigError for sharded models.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Mapping[str, Any],
        config: str | Path | Mapping[str, Any] | Config | None = None,
        *,
        every: int = 100,
        log: Log | None = None,
        draws: int = 1,
        seed: int = 0,
        warn_under: float | None = None,
        patience: int = 3,
    ) -> None:
        for name, number in (("every", every), ("draws", draws), ("patience", patience)):
            if number < 1:
                raise ConfigError(f"{name} is {number}, expected a whole number from 1: leave it out for the default.")
        self.model, self.every, self.log = unwrapped(model), every, log
        self.warn_under, self.patience = warn_under, patience
        self.seed = seed
        self.skipped: dict[str, str] = {}  # names that the last measurement has no number for, and why
        self.low: dict[str, int] = {}  # for how many measurements in a row each share has been under ``warn_under``
        self._reached: int | None = None
        settled = settle_config(config, None)
        if FUSED in settled.modalities:
            raise ConfigError(
                f"a modality is called {FUSED!r}, as the fused representation is in what is logged: name it otherwise."
            )
        source = ArraySource({HELD: _tensors(batch)}, "the batch")
        device = device_of(self.model)
        with undisturbed(self.model):
            self.adapter = build_adapter(settled, None, model=self.model, source=source, device=str(device), seed=seed)
            held = extract(self.adapter, HELD, seed=seed)
            self.adapter.steady()
        self._inputs, self._targets = held.inputs, held.targets
        self._donors = marginal_samples(len(held), draws, seed)
        self._concatenated = held.concatenated

    def start(self, step: int) -> None:
        """Where training begins or goes on, for trainers that count for you: what was reached by then is not measured."""
        self._reached = step // self.every

    def step(self, step: int) -> dict[str, float] | None:
        """Call after every training step (after ``optimizer.step()``), with how many were taken: measures and logs when a
        multiple of ``every`` is reached or passed, at most once each; None where nothing was measured."""
        before, self._reached = self._reached, step // self.every
        if self._reached == before or (before is None and step % self.every):
            return None
        values = self.measure()
        if self.log is not None:
            self.log(values, step)
        self._warn(values, step)
        return values

    def measure(self) -> dict[str, float]:
        """The numbers now; nothing is trained, and the model and all random states are left as they are.

        - ``collapsekit/loss``: mean task loss of the batch, in eval mode (nats for classification).
        - ``collapsekit/reliance/MODALITY``: how much that loss rises when the modality's features (and inputs) are those
          of other examples of the batch, predictions averaged over ``draws`` of them: ``reliance.leave_one_out`` of
          ``collapsekit diagnose`` on the same examples. Fusion and head run again, encoders do not.
        - ``collapsekit/share/MODALITY``: that rise, none below 0, as a share of the sum over modalities.
        - ``collapsekit/effective_rank/MODALITY`` and ``/fused``: exp of the entropy of σ/Σσ, σ the singular values of the
          centred features (n, d) (Roy & Vetterli 2007). At most n - 1 and d, and biased low under n = 10·d: compare it
          with itself over training.

        Every value is finite. What could not be had is left out, with the reason in ``skipped``.
        """
        self.adapter.device = device_of(self.model)
        with undisturbed(self.model), self.adapter.still():
            seed_everything(self.seed)
            whole = self.adapter.run(self._inputs)
            loss = self._loss(self.adapter.task.expect(_cpu(whole.prediction.outputs)))
            rises = {m: self._without(m, whole.recorded) - loss for m in self.adapter.modalities}
        self.skipped = {}
        found = {"loss": loss, **{f"reliance/{m}": rise for m, rise in rises.items()}, **self._shares(rises, loss)}
        for name, x in {**whole.pooled, FUSED: whole.prediction.fused}.items():
            found |= self._rank(f"effective_rank/{name}", _cpu(x))
        for name, value in found.items():
            if not math.isfinite(value):
                self.skipped[f"collapsekit/{name}"] = (
                    f"it is {value}: the model's output is not finite on the held batch"
                )
        return {f"collapsekit/{k}": v for k, v in found.items() if math.isfinite(v)}

    def _without(self, modality: str, recorded: Mapping[str, Activations]) -> float:
        """Task loss with one modality of each example taken from others."""
        total: Tensor | None = None
        for donor in self._donors:
            inputs = dict(self._inputs)
            for key in self.adapter.input_keys(modality):
                inputs[key] = inputs[key][donor]
            taken = tuple(t[donor.to(t.device)] for t in recorded[modality])
            seed_everything(self.seed)
            outputs = self.adapter.rerun({**recorded, modality: taken}, inputs).outputs
            expected = self.adapter.task.expect(_cpu(outputs))
            total = expected if total is None else total + expected
        assert total is not None
        return self._loss(total / len(self._donors))

    def _loss(self, expected: Tensor) -> float:
        return float(self.adapter.task.loss(expected, self._targets).mean())

    def _shares(self, rises: Mapping[str, float], loss: float) -> dict[str, float]:
        kept = {m: max(0.0, rise) for m, rise in rises.items()}  # of NaN: 0.0, which the sum then decides about
        total = math.fsum(kept.values())
        if not all(map(math.isfinite, rises.values())):
            why = "a loss is not finite"
        elif total <= LEAST * max(1.0, abs(loss)):
            why = "no modality's loss rises when it is taken from other examples, so there is nothing to share"
        else:
            return {f"share/{m}": rise / total for m, rise in kept.items()}
        self.skipped |= {f"collapsekit/share/{m}": why for m in rises}
        return {}

    def _rank(self, name: str, x: Tensor) -> dict[str, float]:
        try:
            if self._concatenated and name.endswith(f"/{FUSED}"):
                raise NumericsError(NO_MIXTURE)
            n, d = x.shape
            return {name: effective_rank(singular_values_svd(x) if n < d else singular_values(Moments.of(x)))}
        except NumericsError as e:
            self.skipped[f"collapsekit/{name}"] = str(e)
            return {}

    def _warn(self, values: Mapping[str, float], step: int) -> None:
        if self.warn_under is None:
            return
        for m in self.adapter.modalities:
            share = values.get(f"collapsekit/share/{m}")
            self.low[m] = self.low.get(m, 0) + 1 if share is not None and share < self.warn_under else 0
            if self.low[m] == self.patience:
                warnings.warn(
                    f"at step {step}, modality {m!r} has had under {self.warn_under:.0%} of the loss increases for "
                    f"{self.patience} measurements: it may be ignored, or others may say the same; diagnose a checkpoint "
                    "to find out which.",
                    CollapseWarning,
                    stacklevel=3,
                )


def _cpu(x: Tensor) -> Tensor:
    return x.float().cpu()


def _tensors(batch: Any) -> dict[str, Tensor]:
    if not isinstance(batch, Mapping):
        raise ConfigError(
            f"the held batch is {type(batch).__name__}, expected a dict of tensors such as "
            "{'image': ..., 'audio': ..., 'label': ...}: name its parts."
        )
    return {k: v.detach() for k, v in batch.items() if isinstance(v, Tensor)}
