"""Every modality's encoder trained by itself, within a budget, from the cache where it was trained before."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.pooling import PoolWay
from collapsekit.checkpoint.read import Checkpoint, read_checkpoint
from collapsekit.context import Options, Progress
from collapsekit.data.base import Batch
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, NumericsError
from collapsekit.features.features import Features
from collapsekit.io.transfer import named_to_cpu
from collapsekit.readouts.cache import baseline_key, load_baseline, store_baseline
from collapsekit.readouts.choosing import FeatureSet, choose_features
from collapsekit.readouts.fit import BATCH, PATIENCE, Recipe, fit, in_full, reached, rows_of
from collapsekit.readouts.linear import FitSplit, UnimodalReadout, make_split
from collapsekit.readouts.poolings import attention_set, live_unpooled, pooled_by, ways_of
from collapsekit.user_code.frames import one_line

# What a step is reckoned to cost before it is run, on two modest cores: kept fixed so that what fits into the
# budget, and so the report, does not depend on how busy the machine is.
STEP_SECONDS, FLOPS_PER_SECOND = 2e-3, 2e10


class UnimodalOptions(Options):
    """How encoders are trained alone; set under the name of the probe prefix_gap."""

    start: str = Field(default="fresh", description="fresh, checkpoint, or the path of a checkpoint to start from")
    rates: tuple[float, ...] = Field(default=(1e-3, 3e-3), description="learning rates, dropped from the end")
    epochs: int = Field(default=60, gt=0, description="at most so many epochs a learning rate")
    budget: float = Field(default=120.0, gt=0, description="seconds all baselines may be reckoned at (not in full)")

    @field_validator("rates")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < rate < math.inf for rate in value):
            raise ValueError("needs at least one learning rate, all above 0 and finite")
        return value


@dataclass(frozen=True)
class Plan:
    """How each encoder is trained alone."""

    start: str  # "fresh", "checkpoint", or the path of a checkpoint
    rates: tuple[float, ...]
    epochs: int
    budget: float  # seconds; inf for none


@dataclass(frozen=True)
class Baselines:
    """The encoders trained alone that the budget allowed, read out linearly; and what was left out."""

    trained: dict[str, UnimodalReadout]
    skipped: dict[str, str]
    note: str | None
    described: dict[str, str]  # per modality: start, learning rate, epochs
    read: dict[str, str] = field(default_factory=dict)  # what of its features is read out
    cut_off: dict[str, str] = field(default_factory=dict)  # why training ended while it still got better

    def why_not(self, modality: str) -> str | None:
        """Say why no encoder of the modality was trained alone until it got no better; None where one was."""
        return self.skipped.get(modality, self.cut_off.get(modality))


def train_baselines(
    adapter: Adapter, features: Features, plan: Plan, seed: int, *, progress: Progress, cache: Path | None
) -> Baselines:
    """Train every modality's encoder alone within the plan's budget, or take them from the cache.

    Args:
        adapter: the model.
        features: the examples to diagnose, whose training examples are fitted on.
        plan: how encoders are trained.
        seed: of first weights and of the order of examples.
        progress: told of each encoder.
        cache: the folder of those trained before; None: nowhere.

    Returns:
        What the encoders' features say, read out linearly, and what was left out.
    """
    if adapter.task.embeddings > 1:
        raise NumericsError("a side of a pair says nothing alone, so that no encoder is trained by itself")
    at = make_split(adapter, features)
    start = starting_point(adapter, plan)
    skipped: dict[str, str] = {}
    costs: dict[str, float] = {}
    for m in features.modalities:
        reason, cost = current().on_main(partial(reckoned, adapter, at, m, start, seed))  # it takes the time
        if reason is not None:
            skipped[m] = reason
        else:
            costs[m] = cost
    rates, epochs, left_out = fit_budget(costs, plan)
    skipped |= left_out
    note = _plan_note(plan, rates, epochs, left_out)
    planned = [m for m in costs if m not in left_out]
    if planned:
        total = sum(costs[m] for m in planned) * epochs * len(rates)
        progress.note(
            f"Training {len(planned)} encoders alone for prefix_gap: {len(rates)} learning rates, at most {epochs} epochs, "
            f"reckoned at up to {total:.0f} s (mostly less; --profile quick avoids it)."
        )
    found = Baselines({}, skipped, note, {})
    began = time.monotonic()
    for i, m in enumerate(planned):
        progress.step(ALONE, i, len(planned))
        if current().on_main(lambda: time.monotonic() - began > 2 * plan.budget):
            skipped[m] = f"the machine was slower than reckoned and the budget of {plan.budget:g} s ran out"
            continue
        initial = in_full(cast(Adapter, adapter.fresh(seed, trained=start)))
        shapes = [[t.shape[1:] for t in f.recorded[m]] for f in (at.train, at.held, features)]
        job = _EncoderFit(initial, m, at, seed, cache, all(shape == shapes[0] for shape in shapes))
        try:
            _train_modality(features, job, rates, epochs).put(found, m, plan)
        except NumericsError as e:
            skipped[m] = f"its encoder could not be trained alone: {str(e).rstrip('.')}"
            continue
        progress.step(ALONE, i + 1, len(planned))
    return found


ALONE = "encoders trained alone"  # what is counted of them


def starting_point(adapter: Adapter, plan: Plan) -> Checkpoint | None:
    """Find the weights encoders start from under this plan; None: newly initialised."""
    if plan.start == "fresh":
        return None
    if plan.start == "checkpoint" and adapter.checkpoint is None:
        weights = {k: v for k, v in adapter.model.state_dict().items() if isinstance(v, Tensor)}
        return Checkpoint(Path("live"), "", "live model", weights, None, "the live model's own weights")
    if plan.start == "checkpoint":
        return adapter.checkpoint
    return read_checkpoint(adapter.config.resolve(plan.start))


def reckoned(
    adapter: Adapter, at: FitSplit, modality: str, start: Checkpoint | None, seed: int
) -> tuple[str | None, float]:
    """Estimate how long an epoch of training one encoder alone takes.

    Args:
        adapter: the model.
        at: the examples to train on.
        modality: whose encoder.
        start: the weights it starts from; None: newly initialised.
        seed: of first weights.

    Returns:
        None and seconds, or why this encoder cannot be trained alone and 0.
    """
    from torch.utils.flop_counter import FlopCounterMode

    if adapter.task.grid is not None:
        return "a dense output is read out place by place, which an encoder trained alone is not", 0.0
    twin = adapter.fresh(seed, trained=start)
    if twin is None:
        return adapter.why_not_fresh, 0.0
    in_full(twin)
    try:
        weights = reached(twin, at.train, modality)
    except ConfigError as e:
        why = one_line(e.__cause__ or e).rstrip(".")
        return f"the model fails where the other modalities are the same in all examples ({why})", 0.0
    if not weights:
        return "the modality has no encoder of its own with weights to train", 0.0
    rows = torch.arange(min(BATCH, len(at.train)))
    # With gradient, as torch's counter fails on views of parameters without: latents, say, that are expanded to the batch.
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        twin.live(modality, *rows_of(at.train, rows, full=True))
    steps = math.ceil(len(at.fit) / BATCH)
    return None, steps * (STEP_SECONDS + 3 * counter.get_total_flops() / FLOPS_PER_SECOND)


def fit_budget(costs: dict[str, float], plan: Plan) -> tuple[tuple[float, ...], int, dict[str, str]]:
    """Fit training into the plan's budget: give up learning rates first, then epochs (down to 5), then the dearest
    modalities.

    Args:
        costs: seconds that an epoch of each encoder is reckoned at.
        plan: how encoders are to be trained, and the budget.

    Returns:
        Learning rates, epochs, and why a modality is left out, by its name.
    """
    rates, epochs = plan.rates, plan.epochs
    total = sum(costs.values())
    while len(rates) > 1 and total * epochs * len(rates) > plan.budget:
        rates = rates[:-1]
    if total > 0 and total * epochs * len(rates) > plan.budget:
        epochs = max(min(5, epochs), int(plan.budget / total))
    left_out: dict[str, str] = {}
    for m in sorted(costs, key=lambda m: -costs[m]):
        if sum(c for k, c in costs.items() if k not in left_out) * epochs * len(rates) <= plan.budget:
            break
        left_out[m] = (
            f"training its encoder alone is reckoned at {costs[m] * epochs:.0f} s, over the budget of {plan.budget:g} s: "
            "raise it with --set prefix_gap.budget=SECONDS or use --profile full"
        )
    return rates, epochs, left_out


def _plan_note(plan: Plan, rates: tuple[float, ...], epochs: int, left_out: dict[str, str]) -> str | None:
    parts = []
    if rates != plan.rates:
        parts.append(f"{len(rates)} of {len(plan.rates)} learning rates")
    if epochs != plan.epochs:
        parts.append(f"at most {epochs} of {plan.epochs} epochs")
    if left_out:
        parts.append(f"no baseline for {len(left_out)} modalities")
    return f"to fit the budget of {plan.budget:g} s: {', '.join(parts)}" if parts else None


@dataclass(frozen=True)
class _EncoderFit:
    """One encoder to train alone."""

    initial: Adapter
    modality: str
    at: FitSplit
    seed: int
    cache: Path | None
    one_shape: bool = True  # whether features have one shape in all splits

    def unpooled(self, f: Features, rows: Tensor) -> tuple[Tensor, Batch]:
        """The modality's features (n, ...) with gradient to the encoder, and the inputs of the same examples."""
        return live_unpooled(self.initial, self.modality, *rows_of(f, rows, full=True))

    def features(self, f: Features, rows: Tensor) -> Tensor:
        """What a head is trained on (n, d), in float32, with gradient to the encoder: features pooled in every way that is
        tried, side by side, as it is not known before which of them is the one to read."""
        x, inputs = self.unpooled(f, rows)
        ways = self.ways(x, inputs)
        return torch.cat([pooled_by(self.initial, self.modality, way, x, inputs) for way in ways.values()], 1)

    def _features_of(self, f: Features, rows: Tensor, width: int) -> Tensor:
        x = self.features(f, rows)
        if x.shape[1] != width:
            raise NumericsError(
                f"what is read of it is {width} numbers an example in one batch, {x.shape[1]} in another"
            )
        return x

    def ways(self, x: Tensor, inputs: Batch) -> dict[str, PoolWay | None]:
        """The ways in which features (n, ...) are tried: one only where splits have other shapes."""
        if not self.one_shape:
            return {"as the adapter pools them": None}
        return ways_of(self.initial, self.modality, x, inputs)

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that training changes."""
        return reached(self.initial, self.at.train, self.modality)

    def state(self, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """What of the model is kept: these weights, and buffers, as they are now."""
        model = self.initial.model
        names = trained.keys() | {k for k, _ in model.named_buffers()}
        return {k: v for k, v in model.state_dict().items() if k in names}

    def train(self, rate: float, epochs: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights of the best epoch under one learning rate, and what is known of it; ``initial`` is put back."""
        model, at = self.initial.model, self.at
        begin = {k: v.detach().clone() for k, v in model.state_dict().items()}
        with torch.no_grad():
            d = self.features(at.train, torch.arange(2)).shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            head = nn.Linear(d, at.width).to(self.initial.device)
        trained = self.trained()
        fitted = fit(
            nn.ModuleList([model, head]),
            [*trained.values(), *head.parameters()],
            lambda f, rows: head(self._features_of(f, rows, d)),
            at,
            self.initial.task,
            Recipe(rate=rate, epochs=epochs, seed=self.seed),
        )
        state = {k: v.clone() for k, v in named_to_cpu(self.state(trained)).items()}
        model.load_state_dict(begin)
        return state, {"rate": rate, "epochs": fitted.epochs, "loss": fitted.loss}


@dataclass(frozen=True)
class _TrainedEncoder:
    """One encoder trained alone, and its readout."""

    readout: UnimodalReadout
    read: str
    rate: float
    best: int  # the epoch of the least held-out loss
    most: int  # epochs it might have taken

    def put(self, into: Baselines, modality: str, plan: Plan) -> None:
        """Add it to the baselines of all modalities."""
        into.trained[modality], into.read[modality] = self.readout, self.read
        how = f"learning rate {self.rate:g}, best held-out loss at epoch {self.best}"
        into.described[modality] = f"start {plan.start}, {how}"
        if self.most - self.best < PATIENCE:
            into.cut_off[modality] = f"it still got better when its {self.most} epochs were over"


def _train_modality(features: Features, job: _EncoderFit, rates: tuple[float, ...], epochs: int) -> _TrainedEncoder:
    """The encoder trained alone at the best of ``rates``, its features read out linearly; and how it was made."""
    initial, at = job.initial, job.at
    key = baseline_key(initial, job.modality, at, rates, epochs, job.seed)
    found = current().on_main(lambda: load_baseline(job.cache, key, job.state(job.trained())))
    if found is None:
        tried = list(current().map(lambda rate: job.train(rate, epochs), rates))
        state, about = min(tried, key=lambda t: (t[1]["loss"], t[1]["rate"]))
        if current().is_main:
            store_baseline(job.cache, key, state, about)
    else:
        state, about = found
    own = initial.model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    initial.model.eval()
    splits = {f.split: f for f in (at.train, at.held, features)}
    chosen = choose_features(initial.task, at, _trained_sets(job, list(splits.values())))
    readout = chosen.read(initial.task, features)
    return _TrainedEncoder(readout, chosen.described, about["rate"], about["epochs"], epochs)


def _trained_sets(job: _EncoderFit, splits: Sequence[Features]) -> list[FeatureSet]:
    """What the trained encoder gives, pooled in every way that is tried."""
    initial, m = job.initial, job.modality
    tables: dict[str, dict[str, Tensor]] = {}
    shape = ""
    with torch.no_grad():
        for f in splits:
            parts: list[dict[str, Tensor]] = []
            for rows in torch.arange(len(f)).split(512):
                x, inputs = job.unpooled(f, rows)
                shape = " x ".join(map(str, x.shape[1:])) or "1"
                ways = job.ways(x, inputs)
                parts.append(named_to_cpu({k: pooled_by(initial, m, way, x, inputs) for k, way in ways.items()}))
            tables[f.split] = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    names = next(iter(tables.values()))
    sets = [
        FeatureSet(f"features of {shape}, {k}", lambda f, k=k: tables[f.split][k])  # type: ignore[misc]
        for k in names
    ]
    if len(names) > 1 and initial.config.modalities[m].mask is None:

        def tokens(f: Features) -> Tensor:
            with torch.no_grad():
                parts = [job.unpooled(f, rows)[0].float() for rows in torch.arange(len(f)).split(512)]
                return torch.cat([initial.tokens_of(m, x).cpu() for x in parts])

        learned = attention_set(initial.task, job.at, tokens, f"features of {shape}", job.seed)
        sets += [] if learned is None else [learned]
    return sets
