"""What a repair would train, and what that takes, before it is begun."""

from __future__ import annotations

import math
import time

import torch
from torch import nn

from collapsekit.adapters.live.preserve import preserve_model
from collapsekit.config.options import Training
from collapsekit.distributed.process_group import current
from collapsekit.repairs.training.job import Job, Stage, Step, trainable_of

_STEPS = 3  # timed, after one that is not
# Copies of what is trained: the weights, their gradients, AdamW's two moments or SGD's momentum, the best epoch's weights,
# and weights and moments of the last good state.
_COPIES = {"adamw": 8, "sgd": 6}
_MOMENTS = {"adamw": 2, "sgd": 1}
_KEPT = 2  # snapshots of a run


def estimate_cost(stage: Stage, job: Job, method: str, own: frozenset[int]) -> list[str]:
    """Describe the first stage of a method: weights trained and added, memory beside activations, time.

    It times one batch; the model is given back as it was. Later stages are made of what the first leaves, and so
    unknown.

    Args:
        stage: The first stage.
        job: The repair's job.
        method: The method's name.
        own: ids of the parameters that the model had before the method began.

    Returns:
        Sentences, with MB, ms and s in them.
    """
    if stage.fit is not None:
        return [f"{method} begins with {stage.name}: nothing is trained, and weights are fitted at once."]
    trained = sum(p.numel() for p in stage.parameters)
    added = sum(p.numel() for p in stage.parameters if id(p) not in own)
    stay = sum(p.numel() for p in job.adapter.model.parameters() if id(p) not in own)
    size = sum(p.numel() * p.element_size() for p in stage.parameters)
    seconds, copies = _a_batch(stage, job), _COPIES[job.training.optimizer]
    batches = math.ceil(len(job.at.fit) / job.training.batch)
    epochs = job.training.epochs * stage.longer
    if job.training.steps is not None:
        epochs = min(epochs, math.ceil(job.training.steps * job.training.accumulate / batches))
    takes = f"It takes about {copies * size / 1e6:,.1f} MB beside the model and the activations of a batch."
    if job.training.fsdp:  # the weights among it
        share = copies * size / current().size
        takes = (
            f"Each of {current().size} processes takes about {share / 1e6:,.1f} MB for its share, beside what it gathers to "
            f"compute with (at most the {size / 1e6:,.1f} MB of weights, and as much of gradients) and the activations of a "
            "batch."
        )
    moments = (copies - 4) // 2
    kept = 2 * sum(v.numel() * v.element_size() for v in stage.module.state_dict().values()) + moments * size
    return [
        f"{method} begins with {stage.name}: {trained:,} weights are trained, {added:,} of them added, of which {stay:,} "
        "stay in the model.",
        takes,
        f"A snapshot takes about {kept / 1e6:,.1f} MB of disk; of each stage two are kept until the repair is done.",
        f"A batch takes {seconds * 1000:.1f} ms here, an epoch of {batches} batches {seconds * batches:.1f} s; at most "
        f"{epochs} epochs of this stage, {seconds * batches * epochs:.0f} s.",
    ]


def reckon_files(model: nn.Module, how: Training, runs: int) -> int:
    """Compute how many bytes on disk a repair may come to.

    These are, of the run that is in training, the snapshots that are kept and the one being written; of the run before
    it what it ended with; and the weights.

    Args:
        model: The model to repair.
        how: The settings of training.
        runs: How many runs there are, the control among them.

    Returns:
        Bytes.
    """
    whole = sum(t.numel() * t.element_size() for t in model.state_dict().values() if isinstance(t, torch.Tensor))
    trained = sum(p.numel() * p.element_size() for p in trainable_of(model, how))
    snapshot = 2 * whole + _MOMENTS[how.optimizer] * trained  # weights now, the best epoch's, the optimiser's moments
    return (_KEPT + 1) * snapshot + (runs - 1) * (snapshot + whole) + whole


def _a_batch(stage: Stage, job: Job) -> float:
    """Median seconds of a forward and backward pass."""
    times = []
    with preserve_model(job.adapter.model):
        stage.module.train()
        for _ in range(_STEPS + 1):
            began = time.perf_counter()
            loss = stage.loss(Step(job.at.fit[: job.training.batch], 1))
            grads = torch.autograd.grad(loss, stage.parameters, allow_unused=True)
            if job.adapter.device.type == "cuda":
                torch.cuda.synchronize(job.adapter.device)
            del grads
            times.append(time.perf_counter() - began)
    return sorted(times[1:])[_STEPS // 2]
