"""kd: cross-modal knowledge distillation, by contrastive representation distillation, into the modalities that
collapsed; then the fusion is trained with the distilled encoders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.base import TrainPass
from collapsekit.context import Options
from collapsekit.errors import ConfigError
from collapsekit.io.transfer import to_device
from collapsekit.registry import repair_method
from collapsekit.repairs.ingredients.masking import DROP, new_fusion
from collapsekit.repairs.ingredients.reinit import need_factory, renew_fusion
from collapsekit.repairs.ingredients.warm_up import WARM, Warm, encoder_weights, warm_up
from collapsekit.repairs.training.job import Job, Stage, Step, held_task_loss

Sequence = Literal["weakest-to-strongest", "strongest-to-weakest", "strongest", "random", "simultaneous"]


_DENSE = 16  # times as many entries in the memory as are compared with


class KdOptions(Options):
    """Contrastive representation distillation."""

    sequence: Sequence = Field("weakest-to-strongest", description="the order in which surviving modalities teach")
    weight: float = Field(0.8, gt=0, description="weight of the distillation loss beside the task's")
    temperature: float = Field(0.07, gt=0, description="of the contrast")
    width: int = Field(128, ge=2, description="of the projections that are compared")
    negatives: int = Field(
        1024, ge=1, description="compared with each example, at most as many as there are of another class"
    )
    momentum: float = Field(0.5, ge=0, lt=1, description="with which the memory of projections moves")
    warm_up: Warm = Field("auto", description=WARM)
    freeze_distilled: bool = Field(
        False, description="leave the distilled encoders as they are while the fusion is trained"
    )
    fresh_fusion: bool = Field(
        True, description="train a newly initialised fusion and head, not those that learned to ignore"
    )
    drop: float = Field(0.1, ge=0, lt=1, description=DROP)


@repair_method(
    "kd",
    summary="distils the surviving modalities into the collapsed ones, then trains the fusion",
    definition=(
        "For each collapsed modality, and each surviving one in `sequence`: the collapsed encoder is trained by contrastive "
        "representation distillation from the surviving one's features, beside a linear head's task loss; the epoch of "
        "that head's least held-out loss is kept. Then the whole model is trained on the task's loss, its fusion and head "
        "newly initialised (`fresh_fusion`) and a modality of an example zeros now and then (`drop`). Before all, encoders "
        "that never learned are trained alone (`warm_up`)."
    ),
    source="Chaudhuri et al. 2025, section 3.3 and Table 5; the loss: Tian et al. 2020 (ICLR), section 3",
    options=KdOptions,
)
def kd(job: Job) -> Iterator[Stage]:
    """Yield the stages: warm-up of encoders where it is due, distillation into each modality to repair, the fusion."""
    options = job.own(KdOptions)
    teachers = sequence(job.strong, options.sequence, job.seed)
    if not teachers:
        raise ConfigError(
            "kd distils from modalities that survive, and none does: name those to repair with --modality."
        )
    if options.fresh_fusion:
        need_factory(job, "kd")  # said before the encoders are trained
    yield from warm_up(job, "kd", options.warm_up)
    for student in job.weak:
        for together in teachers:
            yield _distilling(job, options, student, together)
    if options.fresh_fusion:
        renew_fusion(job, "kd")
    parameters = job.trainable()
    if options.freeze_distilled:
        still = {id(p) for m in job.weak for p in job.adapter.encoder_module(m).parameters()}
        parameters = [p for p in parameters if id(p) not in still]
    yield new_fusion(job, "training the fusion", parameters, options.drop if options.fresh_fusion else 0.0)


def sequence(strong: tuple[str, ...], how: Sequence, seed: int) -> list[tuple[str, ...]]:
    """Say which teachers distil together, one after the other: the five rows of Table 5 in Chaudhuri et al. 2025.

    Args:
        strong: The teachers, from the weakest to the strongest.
        how: Which row of the table.
        seed: The seed of the order, where it is random.

    Returns:
        Teachers that distil together, in the order of their turns; empty without any.
    """
    if how == "simultaneous":
        return [strong] if strong else []
    if how == "random":
        order = torch.randperm(len(strong), generator=torch.Generator().manual_seed(seed)).tolist()
        return [(strong[i],) for i in order]
    in_order = {"weakest-to-strongest": strong, "strongest-to-weakest": strong[::-1], "strongest": strong[-1:]}[how]
    return [(teacher,) for teacher in in_order]


def _distilling(job: Job, options: KdOptions, student: str, teachers: tuple[str, ...]) -> Stage:
    adapter, at = job.adapter, job.at
    with torch.no_grad():
        seen = adapter.run_live(job.batch(at.fit[:2])).pooled
    torch.manual_seed(job.seed)  # the projections' weights
    width, targets = seen[student].shape[1], at.train.targets
    contrasts = nn.ModuleDict(
        {f"from_{i}": Contrast(width, seen[t].shape[1], targets, options) for i, t in enumerate(teachers)}
    )
    contrasts.to(adapter.device)
    head = nn.Linear(width, at.width).to(adapter.device) if adapter.task.has_labels else None
    encoder = encoder_weights(job, student)
    if not encoder:
        raise ConfigError(f"modality {student!r} has no encoder of its own with weights to train: kd needs one.")
    extra = [*contrasts.parameters(), *(head.parameters() if head is not None else [])]

    def loss(step: Step) -> Tensor:
        live = job.run(step)
        pairs = zip(teachers, contrasts.values(), strict=True)
        lost = [contrast(live.pooled[student], live.pooled[t].detach(), step.rows) for t, contrast in pairs]
        total: Tensor = options.weight * torch.stack(lost).sum()
        return total if head is None else total + job.task_loss(head(live.pooled[student].float()), step)

    def outputs(live: TrainPass) -> Tensor:
        return live.outputs if head is None else head(live.pooled[student].float())

    return Stage(
        f"distilling {' and '.join(teachers)} into {student}",
        nn.ModuleList([adapter.model, contrasts, *([head] if head is not None else [])]),
        [*encoder, *extra],
        loss,
        held=lambda: held_task_loss(job, outputs),
        keep="best" if head is not None else "last",
    )


class Contrast(nn.Module):
    """The contrastive loss of Tian et al. 2020 between a student's and a teacher's features, with a memory of both.

    Each example's own entry in the other's memory is the positive; negatives are entries of examples of other classes
    (of any other example where labels are no class numbers). ``rows`` number the training examples.
    """

    memory_student: Tensor
    memory_teacher: Tensor
    scale: Tensor

    def __init__(self, student: int, teacher: int, targets: Tensor, options: KdOptions) -> None:
        super().__init__()
        self.project_student = nn.Linear(student, options.width)
        self.project_teacher = nn.Linear(teacher, options.width)
        self.targets = targets if targets.ndim == 1 and not targets.is_floating_point() else None
        self.count, self.options = len(targets), options
        for name in ("memory_student", "memory_teacher"):
            start = F.normalize(torch.randn(self.count, options.width), dim=1)
            self.register_buffer(name, start)
        self.register_buffer("scale", torch.zeros(2))  # that makes scores probabilities; from the first batch

    def forward(self, student: Tensor, teacher: Tensor, rows: Tensor) -> Tensor:
        """Compute the mean loss of a batch: student against the teacher's memory and the other way round.

        Both memories move towards the batch.

        Args:
            student: The student's pooled features (n, d).
            teacher: The teacher's pooled features (n, e).
            rows: Numbers (n,) of the examples among the training examples.

        Returns:
            A scalar, in nats.
        """
        s = F.normalize(self.project_student(student.float()), dim=1)
        t = F.normalize(self.project_teacher(teacher.float()), dim=1)
        index = to_device(torch.cat([rows[:, None], self._negatives(rows)], 1), s.device)
        loss = self._nce(s, self.memory_teacher, index, 0) + self._nce(t, self.memory_student, index, 1)
        with torch.no_grad():
            for memory, now in ((self.memory_student, s), (self.memory_teacher, t)):
                mixed = self.options.momentum * memory[index[:, 0]] + (1 - self.options.momentum) * now
                memory[index[:, 0]] = F.normalize(mixed, dim=1)
        return loss

    def _negatives(self, rows: Tensor) -> Tensor:
        """Rows of other examples (batch, k), drawn with replacement, of another class where there are classes."""
        k = min(self.options.negatives, self.count - 1)
        drawn = torch.randint(0, self.count - 1, (len(rows), k))
        drawn += drawn >= rows[:, None]
        if self.targets is None:
            return drawn
        own, order = self.targets[rows], torch.argsort(self.targets, stable=True)
        ordered = self.targets[order]
        low, high = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
        others = self.count - (high - low)
        if bool((others == 0).any()):
            return drawn
        place = (torch.rand(len(rows), k) * others[:, None]).long()
        return order[place + (place >= low[:, None]) * (high - low)[:, None]]

    def _nce(self, anchor: Tensor, memory: Tensor, index: Tensor, side: int) -> Tensor:
        """The critic's loss of k negatives drawn uniformly from the memory, as noise-contrastive estimation."""
        if self.count <= _DENSE * index.shape[1]:  # all similarities at once cost less than gathering entries
            score = (anchor @ memory.T.clone()).gather(1, index) / self.options.temperature
        else:
            score = torch.einsum("bkd,bd->bk", memory[index], anchor) / self.options.temperature
        k, noise = score.shape[1] - 1, 1.0 / self.count
        p = score.exp()
        with torch.no_grad():  # of the first batch; whether this is it, is not asked, as that waits for a device
            self.scale[side] = torch.where(self.scale[side] == 0, p.mean() * self.count, self.scale[side])
        p = p / self.scale[side].clone()
        positive = torch.log(p[:, 0] / (p[:, 0] + k * noise))
        negative = torch.log(k * noise / (p[:, 1:] + k * noise)).sum(1)
        return -(positive + negative).mean()
