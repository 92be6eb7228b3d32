"""Small trainings: three models, each healthy in many ways, and with one planted fault of the pipeline.

``picture``: an image and a table through two branches, classes. ``answers``: a question of tokens with image tokens in
front, one transformer, the next token as answer. ``robot``: two cameras and a state, actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH, STEPS = 16, 50
CLASSES, VOCABULARY, WIDTH = 4, 40, 24
Fields = dict[str, Tensor]


class Picture(nn.Module):
    """An image and a table, each through a branch of its own."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            activation(),
            nn.Flatten(),
            nn.Linear(6 * 9, WIDTH),
            activation(),
        )
        self.table = nn.Sequential(nn.Linear(6, WIDTH), activation(), nn.Dropout(dropout), nn.Linear(WIDTH, WIDTH))
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, image: Tensor, table: Tensor | None = None) -> Tensor:
        seen = self.image(image)
        read = torch.zeros_like(seen) if table is None else self.table(table)
        return self.head(torch.cat([seen, read], 1))  # type: ignore[no-any-return]


class IgnoresTable(Picture):
    """Takes the table and forgets it."""

    def forward(self, image: Tensor, table: Tensor | None = None) -> Tensor:
        seen = self.image(image)
        return self.head(torch.cat([seen, torch.zeros_like(seen)], 1))  # type: ignore[no-any-return]


class ImageTwice(Picture):
    """A slip of the pen: the image's features where the table's belong."""

    def forward(self, image: Tensor, table: Tensor | None = None) -> Tensor:
        seen, read = self.image(image), self.table(table)
        read = seen
        return self.head(torch.cat([seen, read], 1))  # type: ignore[no-any-return]


class ShutGate(Picture):
    """A gate that was set to 0 and is no parameter."""

    def forward(self, image: Tensor, table: Tensor | None = None) -> Tensor:
        return self.head(torch.cat([self.image(image), 0.0 * self.table(table)], 1))  # type: ignore[no-any-return]


class DropsImages(Picture):
    """Drops images in training; always, as the rate is the share to keep taken for the share to drop."""

    rate = 1.0

    def forward(self, image: Tensor, table: Tensor | None = None) -> Tensor:
        if self.training and torch.rand(()) < self.rate:
            image = torch.zeros_like(image)
        return super().forward(image, table)


class SometimesDrops(DropsImages):
    """As it is meant."""

    rate = 0.5


class OpeningGate(Picture):
    """Healthy: the table enters through a gate that starts at 0 and learns."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor, table: Tensor | None = None) -> Tensor:
        return self.head(torch.cat([self.image(image), self.gate * self.table(table)], 1))  # type: ignore[no-any-return]


class Answers(nn.Module):
    """Image tokens in front of a question; the answer is the token behind."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.project = nn.Linear(8, WIDTH)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, image_mask: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        tokens = torch.cat([self.project(pixel_values), self.embed(input_ids)], 1)
        hidden = torch.cat([image_mask == 0, torch.zeros_like(input_ids, dtype=torch.bool)], 1)
        logits = self.head(self.layer(tokens, src_key_padding_mask=hidden)[:, -input_ids.shape[1] :])
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return found


class Robot(nn.Module):
    """Two cameras through one backbone, a state, actions."""

    def __init__(self, activation: type[nn.Module] = nn.Tanh) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), activation(), nn.Flatten(), nn.Linear(4 * 9, WIDTH), activation()
        )
        self.state = nn.Sequential(nn.Linear(5, WIDTH), activation())
        self.head = nn.Linear(3 * WIDTH, 3)

    def forward(self, observation: Fields) -> Tensor:
        top, wrist = self.backbone(observation["top"]), self.backbone(observation["wrist"])
        return self.head(torch.cat([top, wrist, self.state(observation["state"])], 1))  # type: ignore[no-any-return]


class BlindTop(Robot):
    """Reads the wrist camera twice."""

    def forward(self, observation: Fields) -> Tensor:
        wrist = self.backbone(observation["wrist"])
        return self.head(torch.cat([wrist, wrist, self.state(observation["state"])], 1))  # type: ignore[no-any-return]


Change = Callable[[Fields, int], Fields]  # a batch, and its number


def unchanged(batch: Fields, _: int) -> Fields:
    """A batch as it should be."""
    return batch


@dataclass(frozen=True)
class Training:
    """One training: which data, which model, what is done to its batches; and of a planted fault its name and modality."""

    name: str
    data: str
    model: Callable[[], nn.Module]
    change: Change = unchanged
    kind: str | None = None
    modality: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


MODALITIES: dict[str, dict[str, Any]] = {
    "picture": {"image": "image", "table": "table"},
    "answers": {"image": {"input": "pixel_values", "mask": "image_mask"}, "text": "input_ids"},
    "robot": {"top": "observation.top", "wrist": "observation.wrist", "state": "observation.state"},
}


def draw_batches(data: str, seed: int, size: int = BATCH) -> Iterator[Fields]:
    """Draw the batches of a healthy training.

    Args:
        data: picture, answers or robot.
        seed: Of the world and of its examples.
        size: Examples a batch.

    Returns:
        Fields, the label among them.
    """
    g = torch.Generator().manual_seed(seed)
    ways = torch.randn(CLASSES, 64, generator=g), torch.randn(CLASSES, 6, generator=g), torch.randn(5, 3, generator=g)
    while True:
        label = torch.randint(0, CLASSES, (size,), generator=g)
        image = torch.randn(size, 1, 8, 8, generator=g) + ways[0][label].view(size, 1, 8, 8)
        if data == "picture":
            table = torch.randn(size, 6, generator=g) + 0.7 * ways[1][label]
            yield {"image": image, "table": table, "label": label}
        elif data == "answers":
            ids = torch.randint(8, VOCABULARY, (size, 7), generator=g)
            targets = torch.full_like(ids, -100)
            targets[:, -1] = label + 1
            pixels = image.reshape(size, 8, 8)
            mask = torch.ones(size, 8, dtype=torch.long)
            yield {"pixel_values": pixels, "input_ids": ids, "image_mask": mask, "labels": targets}
        else:
            state = torch.randn(size, 5, generator=g)
            wrist = torch.randn(size, 1, 8, 8, generator=g)
            action = state @ ways[2] + wrist.mean((1, 2, 3))[:, None] + 0.1 * torch.randn(size, 3, generator=g)
            yield {"top": image, "wrist": wrist, "state": state, "action": action}


def alter(key: str, function: Callable[[Tensor], Tensor]) -> Change:
    """Change one field of every batch."""
    return lambda batch, _: {**batch, key: function(batch[key])}


def cached(key: str) -> Change:
    """Give the first batch's field in every step."""
    kept: list[Tensor] = []

    def change(batch: Fields, _: int) -> Fields:
        kept.append(batch[key]) if not kept else None
        return {**batch, key: kept[0]}

    return change


def without(key: str) -> Change:
    """Leave one field out."""
    return lambda batch, _: {k: v for k, v in batch.items() if k != key}


def tell_token(batch: Fields, _: int) -> Fields:
    """The answer's token stands in the prompt."""
    ids = batch["input_ids"].clone()
    ids[:, 2] = batch["labels"][:, -1]
    return {**batch, "input_ids": ids}


def tell_column(batch: Fields, _: int) -> Fields:
    """A column of the table is the label."""
    table = batch["table"].clone()
    table[:, 3] = batch["label"].float()
    return {**batch, "table": table}


def tell_action(batch: Fields, _: int) -> Fields:
    """A number of the state is the action to come, rescaled."""
    state = batch["state"].clone()
    state[:, 1] = 3 * batch["action"][:, 0] - 1
    return {**batch, "state": state}


def _blank(batch: Fields, number: int) -> Fields:
    image = batch["image"].clone()
    image[: len(image) - (number % 2)] = 0
    return {**batch, "image": image}


def _nothing(image: Tensor) -> Tensor:
    return (_in_bytes(image).clamp(max=250).to(torch.uint8) // 255).float()


def _in_bytes(image: Tensor) -> Tensor:
    return ((image + 4) * 32).clamp(0, 255)


NEVER, SCALE, LEAK = "never reaches the model", "badly scaled", "label leaks"
SAME, DROPPED = "same for every example", "dropped in training"
_RAMP = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)


def _ramp(x: Tensor) -> Tensor:
    return _RAMP.expand_as(x)


PLANTED = (
    Training("forward forgets the table", "picture", IgnoresTable, unchanged, NEVER, "table"),
    Training("image's features twice", "picture", ImageTwice, unchanged, NEVER, "table"),
    Training("a gate shut for good", "picture", ShutGate, unchanged, NEVER, "table"),
    Training("one camera read twice", "robot", BlindTop, unchanged, NEVER, "top"),
    Training("table left out of the batch", "picture", Picture, without("table"), "missing", "table"),
    Training("collate fills zeros", "picture", Picture, alter("image", torch.zeros_like), "constant", "image"),
    Training("bytes divided as bytes", "picture", Picture, alter("image", _nothing), "constant", "image"),
    Training("pad value", "answers", Answers, alter("pixel_values", lambda x: 0 * x - 1.8), "constant", "image"),
    Training("one file for every index", "picture", Picture, alter("image", _ramp), SAME, "image"),
    Training("one frame for a whole episode", "robot", Robot, alter("top", _ramp), SAME, "top"),
    Training("a cached batch", "picture", Picture, cached("image"), "repeated", "image"),
    Training("image tokens masked", "answers", Answers, alter("image_mask", torch.zeros_like), "masked", "image"),
    Training("mask the wrong way round", "answers", Answers, alter("image_mask", lambda m: 1 - m), "masked", "image"),
    Training("bytes into tanh", "robot", Robot, alter("wrist", lambda x: (x + 4) * 32), SCALE, "wrist"),
    Training(
        "divided by 255 twice", "picture", Picture, alter("image", lambda x: _in_bytes(x) / 255**2), SCALE, "image"
    ),
    Training(
        "kelvin, not centred", "picture", lambda: Picture(nn.Tanh), alter("table", lambda x: 293 + x), SCALE, "table"
    ),
    Training("micrometres taken for metres", "picture", Picture, alter("table", lambda x: 1e-6 * x), SCALE, "table"),
    Training("cut off at 1", "picture", Picture, alter("image", lambda x: _in_bytes(x).clamp(0, 1)), SCALE, "image"),
    Training("answer in the prompt", "answers", Answers, tell_token, LEAK, "text"),
    Training("label as a column", "picture", Picture, tell_column, LEAK, "table"),
    Training("action in the state", "robot", Robot, tell_action, LEAK, "state"),
    Training("images always dropped", "picture", DropsImages, unchanged, DROPPED, "image"),
    Training("nearly all images blank", "picture", Picture, _blank, DROPPED, "image"),
)


def _sparse(x: Tensor) -> Tensor:
    return x * (x > 1.5)


HEALTHY = (
    Training("plain", "picture", Picture),
    Training("batch norm and dropout", "picture", lambda: Picture(norm=True, dropout=0.3)),
    Training("tanh", "picture", lambda: Picture(nn.Tanh)),
    Training("gelu", "picture", lambda: Picture(nn.GELU)),
    Training("a gate that opens", "picture", OpeningGate),
    Training("drops half of the images", "picture", SometimesDrops),
    Training("sparse images", "picture", Picture, alter("image", _sparse)),
    Training("binary table", "picture", Picture, alter("table", lambda x: (x > 0).float())),
    Training("raw bytes behind a batch norm", "picture", lambda: Picture(norm=True), alter("image", _in_bytes)),
    Training("unscaled table", "picture", Picture, alter("table", lambda x: 5 + 3 * x)),
    Training("one example a batch", "picture", Picture, settings={"size": 1}),
    Training("two examples a batch", "picture", Picture, settings={"size": 2}),
    Training("answers", "answers", Answers),
    Training("answers without dropout", "answers", lambda: Answers(0.0)),
    Training("answers, one question for all", "answers", Answers, alter("pixel_values", torch.sigmoid)),
    Training("robot", "robot", Robot),
    Training("robot with ReLUs", "robot", lambda: Robot(nn.ReLU)),
    Training("robot, images from 0 to 1", "robot", Robot, alter("top", torch.sigmoid)),
)


def losses(data: str) -> Callable[[Any, Tensor], Tensor] | None:
    """The loss of a training's output and label; None where the model brings it."""
    return {"picture": F.cross_entropy, "robot": F.mse_loss, "answers": None}[data]


def arguments(data: str, batch: Fields) -> dict[str, Any]:
    """What forward is given of a batch."""
    if data == "robot":
        return {"observation": {k: v for k, v in batch.items() if k != "action"}}
    return {k: v for k, v in batch.items() if k != "label"}


def label_of(batch: Fields) -> Tensor | None:
    """The label beside what forward is given."""
    return batch.get("label", batch.get("action"))
