"""What a repair is made of: a job (the model, its data, the settings) and stages, trained one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Adapter, Change, TrainPass
from collapsekit.adapters.build import find_submodule
from collapsekit.config.options import Training as Training
from collapsekit.context import Options
from collapsekit.data.base import Batch
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError
from collapsekit.io.transfer import to_device
from collapsekit.readouts.linear import FitSplit
from collapsekit.report.diagnosis import Result

Kind = TypeVar("Kind", bound=Options)
CHUNK = 512  # rows a forward where nothing is trained


@dataclass(frozen=True)
class Step:
    """One batch: its rows in the training split, and the epoch (from 1)."""

    rows: Tensor
    epoch: int


@dataclass
class Stage:
    """Something to train. ``module`` holds all that changes, so that its state_dict is the whole of it; ``loss`` and
    ``held`` look for its weights there when they run, as other parameters may stand in for them while it is trained.

    ``cycle``: epochs that belong together, of which only the last may be kept; patience counts at least two of these, where
    it is more than one epoch.
    ``fit``: nothing is trained: this is called once, and stays where it lowers the held-out loss.
    ``longer``: how many times the epochs of the settings it may take; steps, where they are limited, stay that.
    """

    name: str
    module: nn.Module
    parameters: list[nn.Parameter]
    loss: Callable[[Step], Tensor]
    held: Callable[[], float]  # the loss that decides which epoch is kept, on held-out examples
    keep: Literal["best", "last"] = "best"
    cycle: int = 1
    longer: int = 1
    fit: Callable[[], None] | None = None  # what sets weights at once, in the place of epochs


@dataclass(frozen=True)
class Job:
    """What a method works on: ``adapter.model`` is the copy that changes."""

    adapter: Adapter
    at: FitSplit  # training rows, and those that decide
    weak: tuple[str, ...]  # the modalities to repair
    credit: Mapping[str, float]  # what each modality earns the model (Shapley credit in nats), before
    training: Training
    seed: int
    options: Options
    findings: list[Result] = field(default_factory=list)  # what a method notes down of its own, for the report
    # Of ``weak``, as the model stands before the method: those that it ignores, or uses too little with an encoder that lags
    # behind one trained alone; and others that it uses too little.
    ignored: tuple[str, ...] = ()
    underused: tuple[str, ...] = ()
    # Part of what an encoder trained alone gains that a readout of the model's own has; only where that is known.
    kept: Mapping[str, float] = field(default_factory=dict)
    # Of ``weak``: the family of the readout that the diagnosis took for what the modality is due.
    read: Mapping[str, str] = field(default_factory=dict)

    def at_place(self, place: int, options: Options) -> Job:
        """Make the job of the method at this place of a chain, with the training that its options bring where none was
        asked for; of what an earlier one made, nothing is diagnosed."""
        named = self.training.model_fields_set
        own = {k: v for k, v in options.training_defaults().items() if k not in named}
        job = replace(self, options=options, training=self.training.model_copy(update=own))
        return replace(job, ignored=(), underused=(), kept={}, read={}) if place else job

    def own(self, kind: type[Kind]) -> Kind:
        """Return the method's options, as the type it registered."""
        assert isinstance(self.options, kind)
        return self.options

    @property
    def strong(self) -> tuple[str, ...]:
        """The surviving modalities, from the weakest to the strongest."""
        return tuple(sorted((m for m in self.adapter.modalities if m not in self.weak), key=self.credit.__getitem__))

    def batch(self, rows: Tensor) -> Batch:
        """Take the inputs of training rows (n,), each (n, ...)."""
        return {k: v[rows] for k, v in self.at.train.inputs.items()}

    def run(self, step: Step, change: Mapping[str, Change] | None = None) -> TrainPass:
        """Run the model on a step's batch, with gradient."""
        return self.adapter.run_live(self.batch(step.rows), change)

    def task_loss(self, outputs: Tensor, step: Step) -> Tensor:
        """Compute the task's mean loss of a step's outputs (n, ...), a scalar."""
        return self.adapter.task.training_loss(outputs, to_device(self.at.train.targets[step.rows], outputs.device))

    def trainable(self) -> list[nn.Parameter]:
        """List parameters of the model that may change. Raises ConfigError where ``freeze`` leaves none."""
        return trainable_of(self.adapter.model, self.training)

    def frozen(self) -> list[nn.Module]:
        """List the submodules that stay as they are. Raises ConfigError where there is none of a name."""
        return frozen_of(self.adapter.model, self.training)

    def held_loss(self) -> float:
        """Compute the task's mean loss on the held-out examples: of a softmax of the model's outputs, or the like."""
        return held_task_loss(self, lambda live: live.outputs)


def trainable_of(model: nn.Module, how: Training) -> list[nn.Parameter]:
    """List parameters of a model that may change. Raises ConfigError where ``freeze`` leaves none."""
    frozen = {id(p) for module in frozen_of(model, how) for p in module.parameters()}
    found = [p for p in model.parameters() if p.requires_grad and p.is_floating_point() and id(p) not in frozen]
    if not found:
        raise ConfigError("nothing is left to train: the model has no weights that --freeze does not name.")
    return found


def frozen_of(model: nn.Module, how: Training) -> list[nn.Module]:
    """List submodules of a model that stay as they are. Raises ConfigError where there is none of a name."""
    return [find_submodule(model, path, "--freeze") for path in how.freeze]


def finishing(job: Job, parameters: list[nn.Parameter]) -> Stage:
    """Make the stage of plain training behind one in which modalities were taken away: with every modality there."""
    return plain(job, "finishing", parameters)


def plain(job: Job, name: str, parameters: list[nn.Parameter]) -> Stage:
    """Make the stage that trains the model on the task's loss alone.

    Args:
        job: The repair's job.
        name: The stage's name.
        parameters: What is trained.

    Returns:
        The stage.
    """
    return Stage(
        name,
        job.adapter.model,
        parameters,
        loss=lambda step: job.task_loss(job.run(step).outputs, step),
        held=job.held_loss,
    )


def held_task_loss(
    job: Job, outputs: Callable[[TrainPass], Tensor], run: Callable[[Batch], TrainPass] | None = None
) -> float:
    """Compute the task's mean loss on the held-out examples.

    Args:
        job: The repair's job.
        outputs: Takes outputs (n, ...) from a run.
        run: Runs a batch; None: the model as it is.

    Returns:
        The loss, in the task's unit.
    """
    return float(job.adapter.task.loss(held_expectations(job, outputs, run), job.at.held_targets).mean())


def held_expectations(
    job: Job, outputs: Callable[[TrainPass], Tensor], run: Callable[[Batch], TrainPass] | None = None
) -> Tensor:
    """Compute expectations of the held-out examples, as the task scores them; the model is left in eval mode.

    Args:
        job: The repair's job.
        outputs: Takes outputs (n, ...) from a run.
        run: Runs a batch; None: the model as it is.

    Returns:
        (n, ...), float64, on the CPU.
    """
    at, run = job.at, run or job.adapter.run_live
    job.adapter.model.eval()
    with torch.no_grad():
        parts = list(
            current().map(
                lambda rows: outputs(run({k: v[rows] for k, v in at.held.inputs.items()})).float().cpu(),
                at.choose.split(CHUNK),
            )
        )
    return job.adapter.task.expect(torch.cat(parts))
