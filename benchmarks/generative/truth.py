"""What a subject does with picture and text, and what its projector holds, on fresh examples and without collapsekit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.generative.subjects import KINDS, Subject, answers, image_states
from benchmarks.generative.worlds import CLASSES, Examples

FRESH, DRAWS = 1000, 4
LEAST, MOST = 0.2, 0.02  # of what exchanging both costs: from LEAST used, up to MOST ignored
HELD, LOST = 0.7, 0.3  # of what the picture says: from HELD the projector holds it, up to LOST it does not
SUFFICES = 0.97  # right answers beside another example's picture, from which the text alone suffices
READ_ON, EPOCHS = 2000, 150  # examples that a readout is fitted on, and its steps


def measure_truth(model: nn.Module, subject: Subject) -> dict[str, Any]:
    """Measure what decides the truth: costs of exchanging, right answers, what of the picture the projector holds.

    Args:
        model: the subject's.
        subject: what it was made to be.

    Returns:
        ``costs`` of each modality in parts of what exchanging both costs; ``accuracy``; ``text_accuracy`` beside other
        pictures; ``moves``: how far answers move with the picture at most; ``held`` by the projector, in parts of what the
        picture says.
    """
    fresh = subject.sample(FRESH, 10_000 + subject.seed)
    draw = torch.Generator().manual_seed(subject.seed)
    orders = [torch.randperm(FRESH, generator=draw) for _ in range(DRAWS)]
    with torch.no_grad():
        plain = answers(model, subject, fresh)
        # The same batch shape each time, padding as the pictures' own: else rounding alone moves answers.
        by_image = [answers(model, subject, fresh.exchanged(o, images=True)) for o in orders]
        by_text = [answers(model, subject, fresh.exchanged(o, words=True)) for o in orders]
        by_both = [answers(model, subject, fresh.exchanged(o, images=True, words=True)) for o in orders]
    own = _loss([plain], fresh)
    scale = max(_loss(by_both, fresh) - own, 1e-9)
    return {
        "costs": {"image": (_loss(by_image, fresh) - own) / scale, "text": (_loss(by_text, fresh) - own) / scale},
        "accuracy": _accuracy(plain, fresh),
        "text_accuracy": _accuracy(torch.stack([x.softmax(1) for x in by_image]).mean(0), fresh),
        "moves": max(float((x - plain).abs().max()) for x in by_image),
        "held": _held(model, subject),
    }


def truths(kind: str, measured: dict[str, Any]) -> dict[str, str | None]:
    """Decide the truth of each modality: used, ignored, untrained, or None where it lies between."""
    if kind == "untrained":
        return {"image": "untrained", "text": "untrained"}
    found = {m: "used" if c >= LEAST else "ignored" if c <= MOST else None for m, c in measured["costs"].items()}
    wanted = "used" if kind == "used" else "ignored"
    return found if found["image"] == wanted else dict.fromkeys(found)


def true_cause(kind: str, measured: dict[str, Any]) -> str | None:
    """Decide why a picture is ignored, where what was measured agrees with what was planted; else None."""
    planted = KINDS[kind]
    if planted is None or truths(kind, measured)["image"] != "ignored":
        return None
    same = (
        kind == "dead projector" and measured["held"] <= LOST
    )  # beside it the number of image tokens may move answers
    holds = {
        "seen but not believed": measured["held"] >= HELD and measured["text_accuracy"] < SUFFICES,
        "not seen": measured["held"] <= LOST and measured["text_accuracy"] < SUFFICES,
        "not there": (measured["moves"] < 1e-4 or same) and measured["text_accuracy"] < SUFFICES,
        "prior": measured["text_accuracy"] >= SUFFICES,
    }
    return planted if holds[planted] else None


def _loss(logits: list[Tensor], examples: Examples) -> float:
    mean = torch.stack([x.double().softmax(1) for x in logits]).mean(0)
    return float(F.nll_loss(mean.clamp_min(1e-12).log(), examples.answers))


def _accuracy(scores: Tensor, examples: Examples) -> float:
    return float((scores.argmax(1) == examples.answers).double().mean())


def _held(model: nn.Module, subject: Subject) -> float:
    """What a small network reads of the answer out of image tokens, in parts of what one reads out of what was drawn."""
    fit, fresh = subject.sample(READ_ON, 20_000 + subject.seed), subject.sample(FRESH, 30_000 + subject.seed)
    with torch.no_grad():
        states = [image_states(model, subject, e) for e in (fit, fresh)]
    shown = [torch.stack([_shown(image) for image in e.images]) for e in (fit, fresh)]
    constant = float(-(torch.bincount(fresh.answers, minlength=CLASSES) / FRESH).log()[fresh.answers].mean())
    gains = [constant - _read(x[0], fit.answers, x[1], fresh.answers, subject.seed) for x in (states, shown)]
    return max(0.0, gains[0]) / max(gains[1], 1e-9)


def _shown(image: Tensor) -> Tensor:
    """Means of each channel on the left and on the right: all that a picture says, (6,)."""
    half = image.shape[2] // 2
    return torch.cat([image[:, :, :half].mean((1, 2)), image[:, :, half:].mean((1, 2))])


def _read(x: Tensor, y: Tensor, fresh: Tensor, wanted: Tensor, seed: int) -> float:
    """Loss on fresh examples of a network of one hidden layer fitted on others."""
    center, spread = x.mean(0), x.std(0).clamp_min(1e-6)
    x, fresh = (x - center) / spread, (fresh - center) / spread
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, CLASSES))
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=1e-2)
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(net(fresh), wanted))
