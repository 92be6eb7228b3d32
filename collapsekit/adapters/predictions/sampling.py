"""Models that sample in eval mode: each answer is the mean over fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from collapsekit.adapters.build import seed_everything
from collapsekit.errors import ConfigError
from collapsekit.io.limits import SEEDS
from collapsekit.io.safe_text import quote
from collapsekit.io.transfer import all_equal

if TYPE_CHECKING:
    from collapsekit.adapters.base import Adapter, ForwardPass, Prediction
    from collapsekit.tasks.base import Task

T = TypeVar("T")
STEP = 7_919  # between the seeds of two samples, so that neighbouring seeds of questions share none


def answer_over_seeds(adapter: Adapter, answer: Callable[[], T], average: Callable[[Task, Sequence[T]], T]) -> T:
    """Answer once, or, of a model that samples, once under each of ``model.samples`` seeds.

    Args:
        adapter: the model.
        answer: runs it, under the seed that holds then.
        average: makes one answer of several, as the task averages them.

    Returns:
        The answer. The seeds follow from the one that held before, which is of the question, so that one question has one
        answer and all questions share their seeds.
    """
    first = torch.initial_seed()
    answers = [answer()]
    for i in range(1, adapter.config.model.samples):
        seed_everything((first + STEP * i) % SEEDS)
        answers.append(answer())
    return answers[0] if len(answers) == 1 else average(adapter.task, answers)


def average_predictions(task: Task, answers: Sequence[Prediction]) -> Prediction:
    """Average predictions, each fused (n, D) and outputs (n, ...), outputs as the task averages them."""
    return replace(
        answers[0],
        fused=torch.stack([a.fused for a in answers]).mean(0),
        outputs=task.average([a.outputs for a in answers]),
    )


def average_passes(task: Task, passes: Sequence[ForwardPass]) -> ForwardPass:
    """Average passes over one batch. Raises ConfigError where an encoder itself samples, as its recording is replayed."""
    first = passes[0]
    for m, pooled in first.pooled.items():
        if not all_equal([(pooled, other.pooled[m]) for other in passes[1:]]):
            raise ConfigError(
                f"the encoder of modality {quote(m)} samples: two seeds give two features; name the submodule before it "
                "samples, or leave `encoder` out, and the modality is exchanged at the input."
            )
    return replace(first, prediction=average_predictions(task, [one.prediction for one in passes]))
