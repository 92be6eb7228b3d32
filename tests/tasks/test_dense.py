"""dense: what is read of maps of logits, where places lie, and what a diagnosis says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.errors import ConfigError, DataError
from collapsekit.tasks.dense import Dense
from collapsekit.tasks.grid import Grid
from collapsekit.tasks.make import make_task
from tests.tasks.planted import KINDS, diagnosed, need_right, rows

G = torch.Generator().manual_seed(0)


def maps(n: int = 12, c: int = 3, *space: int) -> tuple[Tensor, Tensor]:
    space = space or (5, 6)
    y = torch.randint(0, c, (n, *space), generator=G)
    y[:, 0], y[::2, 1] = 255, -1
    return torch.randn(n, c, *space, generator=G), y


@pytest.mark.parametrize("space", [(5, 6), (7,), (2, 3, 4)])
def test_the_loss_is_that_of_torch_over_the_positions_that_count(space: tuple[int, ...]) -> None:
    logits, y = maps(12, 3, *space)
    task = Dense()
    outputs = task.read(logits, None)
    checked = task.check(y, outputs, "test")
    ignored = torch.where(y < 0, 255, y)
    truth = torch.stack(
        [F.cross_entropy(a[None].double(), b[None], ignore_index=255) for a, b in zip(logits, ignored, strict=True)]
    ).nan_to_num()
    assert torch.allclose(task.loss(task.expect(outputs), checked), truth, atol=1e-6)
    assert float(task.training_loss(outputs, checked)) == pytest.approx(float(truth.mean()), abs=1e-5)
    last = Dense(channels="last")
    assert torch.equal(last.read(logits.movedim(1, -1), None), outputs)


def test_one_logit_is_two_classes() -> None:
    logits, y = maps(12, 2)
    one, two = Dense(), Dense()
    single = one.read(logits[:, :1], None)
    pair = two.read(torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :1]], 1), None)
    assert torch.equal(single, pair)
    assert one.check(y, single, "test").max() == 1


def test_places_are_drawn_once_and_shared_by_all_examples() -> None:
    logits, y = maps(4, 3, 40, 50)
    task = make_task("dense", metric=None, temperature=1.0, base=Path(), options={"points": 100})
    assert isinstance(task, Dense)
    outputs = task.read(logits, None)
    assert task.grid is not None
    at = task.grid.places
    assert len(at) == 100
    assert len(set((at % 50).tolist())) > 30  # not along a line
    assert torch.equal(task.apart(outputs)[2, 7], logits[2].flatten(1)[:, at[7]])
    checked = task.check(y, outputs, "test")
    assert int(checked[1, 9]) == (lambda v: v if 0 <= v < 255 else -1)(int(y[1].flatten()[at[9]]))
    assert torch.equal(task.check(checked, outputs, "test"), checked)  # once more changes nothing


def test_neighbours_are_what_lies_around_a_place_and_edges_repeat() -> None:
    grid = Grid((3, 4), 99)
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    around = grid.neighbours(x, 1)[0]
    for place in range(12):
        i, j = divmod(place, 4)
        window = padded[0, :, i : i + 3, j : j + 3]
        assert sorted(around[place].tolist()) == sorted(window.flatten().tolist())
    assert torch.equal(grid.neighbours(x, 0)[0].T, x.flatten(2)[0])
    half = grid.neighbours(x[:, :, :, ::2], 0)[0].T.reshape(2, 3, 4)
    assert torch.equal(half, x[0, :, :, ::2].repeat_interleave(2, 2))
    assert grid.fits(torch.Size([7, 2, 9, 9]))
    assert not grid.fits(torch.Size([7, 2, 9]))


@pytest.mark.parametrize(
    ("logits", "labels", "kind", "says"),
    [
        (torch.zeros(4, 3), torch.zeros(4).long(), ConfigError, "reads logits"),
        (torch.zeros(4, 3, 5), torch.zeros(4, 6).long(), DataError, "bring them to one resolution"),
        (torch.zeros(4, 3, 5), torch.full((4, 5), 3), DataError, "label 3 of split 'x' is out of range"),
        (torch.zeros(4, 3, 5), torch.full((4, 5), 0.5), DataError, "fractional"),
        (torch.zeros(4, 3, 5), torch.full((4, 5), 255), DataError, "4 of 4 examples of split 'x' have no position"),
    ],
)
def test_what_does_not_fit_is_refused(logits: Tensor, labels: Tensor, kind: type[Exception], says: str) -> None:
    def asked() -> None:
        task = Dense()
        task.check(labels, task.read(logits, None), "x")

    with pytest.raises(kind, match=says):
        asked()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"points": 0}, "points is 0"),
        ({"channels": "middle"}, "channels is 'middle'"),
        ({"point": 3}, "did you mean 'points'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_task("dense", metric=None, temperature=1.0, base=Path(), options=options)


class Segments(nn.Module):
    """Two encoders of maps, mixed at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.fuse, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        mixed = torch.relu(self.fuse(torch.relu(torch.cat([self.a(a), self.b(b)], 1))))
        out: Tensor = self.head(mixed)
        return out


def scenes(n: int) -> dict[str, Tensor]:
    """Colour tells one half of the class, depth the other."""
    g = torch.Generator().manual_seed(4)
    first, second = (torch.randint(0, 2, (n, 8, 8), generator=g) for _ in range(2))
    a, b = torch.randn(n, 3, 8, 8, generator=g), torch.randn(n, 1, 8, 8, generator=g)
    a[:, 0] += 2.5 * first
    b[:, 0] += 2.5 * second
    label = 2 * first + second
    label[:, 0] = 255
    return {"a": a, "b": b, "label": label}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_planted_use_is_found(kind: str) -> None:
    def loss(out: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(out, label, ignore_index=255)

    need_right(diagnosed(Segments, scenes(rows()), loss, kind, {"task": "dense"}, steps=120), kind)
