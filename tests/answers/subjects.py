"""Subjects whose model is asked through files, and the same model in process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit import Report, diagnose
from collapsekit.answers import Engine
from collapsekit.answers.manifest import Manifest
from collapsekit.answers.planning import PROBES, make_plan
from collapsekit.answers.scoring import score
from collapsekit.config.load import check_config
from collapsekit.config.options import PlanOptions
from tests.problems import make_problem

DRAWS = {"reliance": {"draws": 6}}
SIZES = {"train": 160, "val": 60, "test": 80}


class Rounded(nn.Module):
    """A model whose last bits do not hang on how many rows share a forward; where a modality is NaN it takes a constant."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **x: Tensor) -> Tensor:
        return torch.round(self.model(**{k: v.nan_to_num(0.5) for k, v in x.items()}), decimals=3)


@dataclass
class Asked:
    """A subject, and where its questions and answers are."""

    model: nn.Module
    config: dict[str, Any]
    folder: Path
    data: Mapping[str, Any] | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: dict(DRAWS))

    @property
    def questions(self) -> Path:
        return self.folder / "questions"

    @property
    def answers(self) -> Path:
        return self.folder / "answers.jsonl"

    def plan(self, **options: Any) -> Manifest:
        from collapsekit.data.memory import with_data

        options.setdefault("options", self.options)
        config, source = with_data(check_config(self.config, base=self.folder), self.data)
        return make_plan(config, PlanOptions.make(**options), source).save(self.questions)

    def run(self, batch: Mapping[str, Any]) -> Tensor:
        with torch.no_grad():
            return self.model(**{k: torch.from_numpy(v) if hasattr(v, "dtype") else v for k, v in batch.items()})

    def engine(self) -> Engine:
        return Engine(self.questions, config=check_config(self.config, base=self.folder), data=self.data)

    def answer(self, **how: Any) -> int:
        return self.engine().answer(self.run, self.answers, **how)

    def score(self, *answers: Path, **how: Any) -> Report:
        config = check_config(self.config, base=self.folder)
        return score(self.questions, answers or [self.answers], config=config, data=self.data, **how)

    def diagnose(self) -> Report:
        return diagnose(
            model=self.model,
            config=self.config,
            data=self.data,
            probes=PROBES,
            options=self.options,
            cache=self.folder / "c",
        )


def make_asked(
    folder: Path,
    modalities: Mapping[str, int] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    **problem: Any,
) -> Asked:
    """A small problem, its model without any name of its insides; ``settings``: further keys of the config."""
    made = make_problem(folder, modalities, sizes=problem.pop("sizes", SIZES), **problem)
    sections = dict.fromkeys(modalities or ("image", "audio"), None)
    config: dict[str, Any] = {"modalities": sections, "task": made.config["task"], "data": made.config["data"]}
    for key, value in (settings or {}).items():
        config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
    return Asked(Rounded(made.model), config, folder)


class TextModel(nn.Module):
    """Says by a word of the text, and the mean of an image, which class it is."""

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        words = torch.tensor([[float(word in t.split()) for word in ("red", "green", "blue")] for t in text])
        return torch.round(2 * words + image.mean((1, 2))[:, None] * torch.tensor([1.0, 0.0, -1.0]), decimals=3)


def make_text_asked(folder: Path) -> Asked:
    """Texts and images in lists of batches, as a loader gives them."""
    g = torch.Generator().manual_seed(0)

    def split(n: int) -> list[dict[str, Any]]:
        label = torch.randint(0, 3, (n,), generator=g)
        image = (torch.rand(n, 4, 4, generator=g) - 0.3 * (label.float() - 1)[:, None, None]).clamp(0, 1)
        said = torch.where(torch.rand(n, generator=g) < 0.7, label, torch.randint(0, 3, (n,), generator=g))
        text = [f"a {('red', 'green', 'blue')[i]} thing number {k}" for k, i in enumerate(said.tolist())]
        return [
            {"image": image[i : i + 20], "text": text[i : i + 20], "label": label[i : i + 20]} for i in range(0, n, 20)
        ]

    data = {name: split(n) for name, n in (("train", 120), ("val", 60), ("test", 60))}
    config = {"modalities": {"image": None, "text": None}}
    return Asked(TextModel(), config, folder, data)
