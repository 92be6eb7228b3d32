"""What people look at today to tell whether a vision-language model looks at its picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.generative.subjects import DIAGNOSED, Subject, answers, blank
from benchmarks.generative.worlds import IMAGE

DRAWS = 5
NAMES = {
    "flip_rate": "share of answers that change with another example's picture",
    "attention_share": "share of the last place's attention on image tokens",
    "blank_drop": "right answers lost with a blank picture",
}


def scores(model: nn.Module, subject: Subject) -> dict[str, float]:
    """Score a subject by each, on as many examples as the diagnosis has."""
    examples = subject.sample(DIAGNOSED, 40_000 + subject.seed)
    draw = torch.Generator().manual_seed(subject.seed)
    with torch.no_grad():
        own = answers(model, subject, examples).argmax(1)
        orders = [torch.randperm(len(examples), generator=draw) for _ in range(DRAWS)]
        flips = [answers(model, subject, examples.exchanged(o, images=True)).argmax(1) != own for o in orders]
        dark = answers(model, subject, blank(examples)).argmax(1)
    right, still = ((a == examples.answers).double().mean() for a in (own, dark))
    return {
        "flip_rate": float(torch.stack(flips).double().mean()),
        "attention_share": _attention(model, subject),
        "blank_drop": float(right - still),
    }


def _attention(model: nn.Module, subject: Subject) -> float:
    """Mean over layers, heads and examples of what the last place's attention puts on image tokens."""
    examples = subject.sample(DIAGNOSED, 40_000 + subject.seed)
    batch = subject.of.batch(examples, subject.masked)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers: list[Tensor] = model(**batch, output_attentions=True).attentions
    model.set_attn_implementation(before)
    there = (batch["input_ids"] == IMAGE)[:, None, :]
    return float(torch.stack([(a[:, :, -1] * there).sum(2).mean() for a in layers]).mean())
