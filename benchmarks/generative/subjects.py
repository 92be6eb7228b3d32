"""Subjects: an architecture, what is asked, what was planted, a seed; and how each is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.generative.models import ARCHITECTURES, HIDDEN, Architecture
from benchmarks.generative.worlds import ANSWERS, CLASSES, STRENGTH, WORLDS, Examples, sample

SIZES = {"train": 400, "val": 150}
DIAGNOSED = 400  # examples of the test split
POOL = 3000  # examples trained on; the diagnosis is given SIZES of others
LEAST, STEPS, LOOK = 200, 1200, 50  # steps at least and at most; a look at held-out examples every LOOK
BATCH, RATE, SHORT = 64, 3e-3, 400  # SHORT: steps of models that nothing is planted in
LOOKED = 500  # held-out examples
GREY = 1e-3  # of a blank picture; Idefics3 leaves pictures out that are 0 throughout

# Share of right answers at which training ends: of everything, of a text that gives answers away, of the text alone, and of
# the picture alone by a head on the tower.
LEARNED = {"both": 0.83, "hint": 0.95, "asks": 0.95}
PRIOR = {"both": 0.99, "hint": 0.99, "asks": 0.99}
TEXT_ALONE = {"both": 0.42, "hint": 0.53, "asks": 0.5}
SEEN = {"both": 0.48, "hint": 0.93, "asks": 0.5}

# What is planted, and the cause that is right: where what the picture says is lost.
KINDS = {
    "used": None,
    "ignored, exchanged": "seen but not believed",  # trained on other examples' pictures, by a tower that was taught before
    "ignored, blank": "seen but not believed",  # trained on blank pictures
    "never seen": "not seen",  # what reads pixels lets through nothing of what the answer needs
    "dead projector": "not there",  # image tokens are the same for every picture
    "masked": "not there",  # the attention mask leaves image tokens out
    "prior suffices": "prior",  # the text gives every answer away
    "untrained": None,
}
PLANTED = tuple(k for k in KINDS if k != "untrained")


@dataclass(frozen=True)
class Subject:
    """One model to be made."""

    architecture: str
    world: str
    kind: str
    seed: int

    @property
    def name(self) -> str:
        """What it is called in records, and by ``--only``."""
        return f"{self.architecture}/{self.world}/{self.kind}/{self.seed}"

    @property
    def masked(self) -> bool:
        """Whether the mask leaves image tokens out."""
        return self.kind == "masked"

    @property
    def of(self) -> Architecture:
        """Its architecture."""
        return ARCHITECTURES[self.architecture]

    def sample(self, n: int, seed: int) -> Examples:
        """Draw examples of its world."""
        hinted = 1.0 if self.kind == "prior suffices" else None
        return sample(WORLDS[self.world], n, seed, self.of.size, hinted)


@dataclass(frozen=True)
class Hinted(Subject):
    """One model with nothing planted: plainly trained for SHORT steps, on a text that gives the answer away in a share, and
    pictures that show theirs more or less strongly."""

    hinted: float = 0.0
    strength: float = STRENGTH

    @property
    def name(self) -> str:
        """What it is called, with its share and strength."""
        return f"{super().name}/{self.hinted:g}/{self.strength:g}"

    def sample(self, n: int, seed: int) -> Examples:
        """Draw examples of its world, with its share and strength."""
        return sample(WORLDS[self.world], n, seed, self.of.size, self.hinted, self.strength)


def subjects(seeds: int, untrained: int) -> Iterator[Subject]:
    """List all: ``seeds`` of each kind, ``untrained`` of each architecture and world; a first of each kind first."""
    cells = [(a, w) for w in WORLDS for a in ARCHITECTURES]
    for seed in range(max(seeds, untrained)):
        for architecture, world in cells:
            for kind in KINDS:
                if seed < (untrained if kind == "untrained" else seeds):
                    yield Subject(architecture, world, kind, seed)


def answers(model: nn.Module, subject: Subject, examples: Examples) -> Tensor:
    """Compute logits of the four answers, (n, 4)."""
    logits: Tensor = model(**subject.of.batch(examples, subject.masked)).logits
    return logits[:, -1, ANSWERS : ANSWERS + CLASSES]


def load_or_train(subject: Subject, folder: Path | None) -> nn.Module:
    """Take a subject's model out of a folder, or train it and keep it there; ``folder`` None: keep it nowhere."""
    if folder is None:
        return train(subject)
    path = folder / f"{subject.name.replace('/', '-').replace(' ', '_')}.safetensors"
    if path.is_file():
        model = subject.of.build()
        load_model(model, path)
        return model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    model = train(subject)
    save_model(model, str(path))
    return model


def train(subject: Subject) -> nn.Module:
    """Make a subject's model and train it as its kind has it, until held-out answers are right or steps are used up."""
    torch.manual_seed(1000 * subject.seed + list(KINDS).index(subject.kind))
    model = subject.of.build()
    if subject.kind == "untrained":
        return model.eval()
    if subject.kind == "ignored, exchanged":
        _teach_tower(model, subject)
    _PLANTS.get(subject.kind, _plant_nothing)(model, subject.of)
    pool, held = subject.sample(POOL, 10 * subject.seed + 1), subject.sample(LOOKED, 10 * subject.seed + 2)
    alter = _ALTERED.get(subject.kind, _keep)
    short = isinstance(subject, Hinted)
    _fit(
        model,
        lambda some: _loss(model, subject, alter(some)),
        pool,
        lambda: not short and _is_learned(model, subject, alter(held)),
        SHORT if short else STEPS,
    )
    return model.eval()


def _loss(model: nn.Module, subject: Subject, examples: Examples) -> Tensor:
    logits: Tensor = model(**subject.of.batch(examples, subject.masked)).logits[:, -1]
    return F.cross_entropy(logits, ANSWERS + examples.answers)


def _fit(
    model: nn.Module,
    loss: Callable[[Examples], Tensor],
    pool: Examples,
    enough: Callable[[], bool],
    steps: int = STEPS,
) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(pool.take(torch.randperm(len(pool))[:BATCH])).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step >= LEAST and step % LOOK == 0 and enough():
            return


def _is_learned(model: nn.Module, subject: Subject, held: Examples) -> bool:
    """Whether answers are about as right as all that the model is made to read lets them be."""
    wanted = {"used": LEARNED, "prior suffices": PRIOR}.get(subject.kind, TEXT_ALONE)
    return accuracy(model, subject, held) >= wanted[subject.world]


def accuracy(model: nn.Module, subject: Subject, held: Examples) -> float:
    """Compute the share of right answers."""
    with torch.no_grad():
        return float((answers(model, subject, held).argmax(1) == held.answers).double().mean())


def _teach_tower(model: nn.Module, subject: Subject) -> None:
    """Train tower and projector to say the answer by a linear head, and freeze them."""
    tower = [model.get_submodule(path) for path in (subject.of.tower, subject.of.projector)]
    head = nn.Linear(2 * HIDDEN, CLASSES)

    def scores(some: Examples) -> Tensor:
        return head(image_states(model, subject, some))

    pool, held = subject.sample(POOL, 10 * subject.seed + 3), subject.sample(LOOKED, 10 * subject.seed + 4)

    def enough() -> bool:
        with torch.no_grad():
            return float((scores(held).argmax(1) == held.answers).double().mean()) >= SEEN[subject.world]

    learned = nn.ModuleList([*tower, head])
    _fit(learned, lambda some: F.cross_entropy(scores(some), some.answers), pool, enough)
    nn.ModuleList(tower).requires_grad_(False)


def image_states(model: nn.Module, subject: Subject, examples: Examples) -> Tensor:
    """Read what the projector gives, (n, 2 HIDDEN): image tokens of the first column and of the last, each averaged."""
    found: list[Tensor] = []
    handle = model.get_submodule(subject.of.projector).register_forward_hook(lambda _m, _i, out: found.append(out))
    model(**subject.of.batch(examples, False))
    handle.remove()
    counts = [image[0].numel() // subject.of.pixels for image in examples.images]
    grids = [tokens.unflatten(0, (2, -1)) for tokens in found[0].reshape(-1, found[0].shape[-1]).split(counts)]
    return torch.stack([torch.cat([grid[:, 0].mean(0), grid[:, -1].mean(0)]) for grid in grids])


def _plant_nothing(model: nn.Module, architecture: Architecture) -> None:
    """Leave the model as it was built."""


def _blind(model: nn.Module, architecture: Architecture) -> None:
    """Freeze a tower whose filters add up to nothing over each patch and channel: answers need such sums alone."""
    weight = model.get_submodule(architecture.patches).weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight -= weight.mean((-2, -1), keepdim=True)
    model.get_submodule(architecture.tower).requires_grad_(False)


def _kill_projector(model: nn.Module, architecture: Architecture) -> None:
    """Freeze a projector that gives the same for every picture."""
    projector = model.get_submodule(architecture.projector)
    projector.requires_grad_(False)
    *_, last = (module for module in projector.modules() if isinstance(module, nn.Linear))
    nn.init.zeros_(last.weight)


def _keep(examples: Examples) -> Examples:
    return examples


def _with_other_images(examples: Examples) -> Examples:
    return examples.exchanged(torch.randperm(len(examples)), images=True)


def blank(examples: Examples) -> Examples:
    """Put blank pictures in the place of all."""
    return examples.with_images([torch.full_like(image, GREY) for image in examples.images])


_PLANTS: dict[str, Callable[[nn.Module, Architecture], None]] = {
    "never seen": _blind,
    "dead projector": _kill_projector,
}
_ALTERED: dict[str, Callable[[Examples], Examples]] = {
    "ignored, exchanged": _with_other_images,
    "ignored, blank": blank,
}
