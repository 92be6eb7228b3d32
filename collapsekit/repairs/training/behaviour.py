"""What a model answers before it is trained, by which a resumed repair tells that its code is still what it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.live.preserve import preserve_model
from collapsekit.io.transfer import to_cpu
from collapsekit.repairs.training.job import Job, Step

ROWS, NUMBERS = 8, 4096  # examples it is asked about; numbers kept of what is wide
# Part of the largest number by which answers may differ: threads and processors round otherwise, and so do other devices,
# more so. Batch norm in training and gradients make more of that.
_SAME, _ELSEWHERE = {"outputs": 1e-4, "outputs in training": 1e-3, "gradients": 1e-2}, {"outputs": 1e-2}


@dataclass(frozen=True)
class Behaviour:
    """Answers by what was asked, and the device and dtype of the model that gave them."""

    device: str
    dtype: str
    tensors: Mapping[str, Tensor]

    def differs(self, theirs: Behaviour) -> str | None:
        """Say in which answers ``theirs`` are others than rounding makes them, in words; None where in none.

        On another kind of device only outputs are compared: there other random numbers are drawn in training.
        """
        same = self.device == theirs.device
        for name, most in (_SAME if same else _ELSEWHERE).items():
            ours, others = (torch.nan_to_num(each.tensors.get(name, torch.zeros(0))) for each in (self, theirs))
            if ours.shape != others.shape:
                return f"{name} had the shape {_shape(others)} where they have {_shape(ours)} now{self._where(theirs)}"
            if not ours.numel():
                continue
            gap, scale = float((ours - others).abs().max()), float(others.abs().max())
            if gap > most * scale + 1e-7:
                return (
                    f"{name} were up to {gap:.2g} away from what they are now, where they reach {scale:.2g}"
                    f"{self._where(theirs)}"
                )
        return None

    def _where(self, theirs: Behaviour) -> str:
        """Devices and dtypes, where they are not the same."""
        if (self.device, self.dtype) == (theirs.device, theirs.dtype):
            return ""
        return f" (then {theirs.dtype} on {theirs.device}, now {self.dtype} on {self.device})"


def _shape(values: Tensor) -> str:
    return "×".join(map(str, values.shape))


def behaviour_of(job: Job) -> Behaviour:
    """Record outputs of a few training examples, and outputs and the norm of each weight's gradient in training.

    The model and the generators of random numbers are given back as they were.
    """
    model, rows = job.adapter.model, job.at.fit[: min(ROWS, job.training.batch)]
    step, weights = Step(rows, 1), job.trainable()
    found: dict[str, Tensor] = {}
    with preserve_rng_state(), preserve_model(model):
        seed_everything(0)
        model.eval()
        with torch.no_grad():
            found["outputs"] = _few(job.run(step).outputs)
        if len(rows) > 1:  # batch norm cannot take one example
            seed_everything(0)
            model.train()
            for still in job.frozen():
                still.eval()
            outputs = job.run(step).outputs
            grads = torch.autograd.grad(job.task_loss(outputs, step), weights, allow_unused=True)
            found["outputs in training"] = _few(outputs)
            reached = iter(to_cpu(g for g in grads if g is not None))
            norms = [0.0 if g is None else float(next(reached).double().norm()) for g in grads]
            found["gradients"] = torch.tensor(norms, dtype=torch.float64)
    return Behaviour(job.adapter.device.type, str(weights[0].dtype).removeprefix("torch."), found)


def _few(values: Tensor) -> Tensor:
    """At most so many numbers of a row, evenly spread."""
    rows = values.detach().cpu().double().reshape(len(values), -1)
    return rows[:, :: -(-rows.shape[1] // NUMBERS) or 1].contiguous()
