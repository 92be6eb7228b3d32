"""The balanced reference of paired embeddings: planted sides, and a model that reads half of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import collapsekit
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.factory import batch_form
from collapsekit.data.memory import MemorySource
from collapsekit.errors import NumericsError
from collapsekit.features.extraction import extract
from collapsekit.games.coalitions import lender_of
from collapsekit.games.pairs import find_sides, make_paired_reference
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.readouts.linear import make_split
from collapsekit.tasks.retrieval import Retrieval

SIZES = {"train": 300, "val": 128, "test": 128}
CONFIG: dict[str, Any] = {
    "modalities": {"image": None, "noun": None, "colour": None},
    "task": "retrieval",
    "temperature": 0.2,
}


class Towers(nn.Module):
    """What an image shows of a noun and of a colour, beside what is said of both; ``reads``: how much of the colour."""

    def __init__(self, reads: float = 1.0, mixed: float = 0.0) -> None:
        super().__init__()
        self.reads, self.mixed = nn.Parameter(torch.tensor(reads)), mixed

    def forward(self, image: Tensor, noun: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
        told = torch.cat([noun, self.reads * colour], 1)
        return torch.cat([image[:, :3], self.reads * image[:, 3:]], 1) + self.mixed * told, told


def splits() -> dict[str, Any]:
    g, found = torch.Generator().manual_seed(0), {}
    for name, n in SIZES.items():
        noun, colour = torch.randn(2, n, 3, generator=g)
        image = torch.cat([noun, colour], 1) + 0.4 * torch.randn(n, 6, generator=g)
        found[name] = {"image": image, "noun": noun, "colour": colour}
    return found


def opened(model: nn.Module, config: dict[str, Any] = CONFIG) -> Any:
    checked = check_config(config, base=Path.cwd())
    adapter = ModuleAdapter(checked, model=model, source=MemorySource(splits(), batch_form(checked)))
    return adapter, extract(adapter, "test")


@pytest.mark.parametrize("task", [{}, {"task_options": {"loss": "siglip", "bias": -2.0}}])
def test_half_of_a_side_that_is_not_read_is_collapsed(task: dict[str, Any]) -> None:
    for reads, verdict in ((1.0, "used"), (0.0001, "collapsed")):
        report = collapsekit.diagnose(
            model=Towers(reads),
            data=splits(),
            config={**CONFIG, **task},
            profile="quick",
            probes=["reliance", "utilisation"],
        )
        if verdict == "collapsed":
            assert report.modalities["colour"].verdict == verdict
        assert report.find("utilisation.ratio", "noun").value > 0.4  # type: ignore[union-attr,operator]
        assert report.modalities["noun"].verdict != "collapsed"
        assert (report.find("utilisation.ratio", "colour").value > 0.4) == (verdict == "used")  # type: ignore[union-attr,operator]


def test_the_reference_finds_what_each_part_says() -> None:
    adapter, features = opened(Towers(0.0001))
    donors = marginal_samples(len(features), 64, 0)
    reference = make_paired_reference(adapter, features, make_split(adapter, features), donors, 0).summed
    loss = {mask: float(reference.value(mask).loss[0]) for mask in range(8)}
    chance = float(reference.constant().loss[0])
    assert chance == pytest.approx(float(torch.tensor(64.0).log()))
    # Bits of the mask: image, noun, colour. One side alone finds nothing, whatever parts of it.
    assert all(loss[mask] > 0.9 * chance for mask in (0, 1, 2, 4, 6))
    assert loss[7] < 0.4 * chance
    assert loss[7] < min(loss[3], loss[5]) < max(loss[3], loss[5]) < loss[0]
    assert abs(loss[3] - loss[5]) < 0.15 * chance  # noun and colour say as much
    assert float(reference.alone("image").loss[0]) == chance


def test_a_modality_on_no_side_is_named() -> None:
    adapter, features = opened(Towers())
    assert find_sides(adapter, features) == {"image": 0, "noun": 1, "colour": 1}
    with pytest.raises(NumericsError, match="'noun' moves both embeddings"):
        find_sides(*opened(Towers(mixed=0.1)))
    with pytest.raises(NumericsError, match="'colour' moves neither embedding"):
        find_sides(*opened(Towers(0.0)))
    one_side = {**CONFIG, "modalities": {"noun": None, "colour": None}, "data": {"also": ["image"]}}
    with pytest.raises(NumericsError, match="on one side of the pair"):
        find_sides(*opened(Towers(), one_side))


def test_controls_do_not_make_a_sound_report_doubtful() -> None:
    probes = ["controls", "reliance", "utilisation"]
    report = collapsekit.diagnose(model=Towers(), data=splits(), config=CONFIG, profile="quick", probes=probes)
    assert report.verdict == "healthy"
    assert all(report.find("controls.permuted", m).skipped for m in report.modalities)  # type: ignore[union-attr]


def test_each_modality_has_another_lender() -> None:
    donors, task = marginal_samples(40, 16, 0), Retrieval(0.1)
    met: dict[int, set[int]] = {1: set(), 2: set()}
    for k in range(16):
        lent = [lender_of(task, donors, k, i, 3) for i in range(3)]
        assert all(bool((a != b).all()) for a, b in ((lent[0], lent[1]), (lent[0], lent[2]), (lent[1], lent[2])))
        assert torch.equal(lent[0], donors[k])
        for i in (1, 2):
            which = next(j for j, d in enumerate(donors) if torch.equal(d, lent[i]))
            met[i].add((which - k) % 16)
    assert all(len(apart) == 15 for apart in met.values())
