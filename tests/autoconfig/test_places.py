"""Encoders and fusion, found by what moves what, on networks whose places are known."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.autoconfig.running.observe import observe
from collapsekit.autoconfig.running.runner import CallForm, fields_as_units
from collapsekit.autoconfig.running.trace import watch
from tests.autoconfig.proposing import ground_of, observed_of, written_for

N = 24


def columns(**more: Tensor) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(0)
    held = {"image": torch.randn(N, 6), "audio": torch.randn(N, 5), "label": torch.randint(0, 3, (N,)), **more}
    return {"train": held, "test": {k: v.flip(0) for k, v in held.items()}}


def mlp(*widths: int) -> nn.Sequential:
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*[layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())])


class Plain(nn.Module):
    """Two encoders, each with a projection behind it, a fusion of two layers, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.ear = mlp(6, 8), mlp(5, 8)
        self.project = nn.Linear(8, 4)
        self.fusion, self.head = mlp(12, 9, 7), nn.Linear(7, 3)

    def forward(self, image: Tensor, audio: Tensor) -> Any:
        out: Tensor = self.head(self.fusion(torch.cat([self.project(self.eye(image)), self.ear(audio)], 1)))
        return out


class Auxiliary(Plain):
    """The same with a head of its own for one encoder, which is no way into the fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.eye_head = nn.Linear(8, 3)

    def forward(self, image: Tensor, audio: Tensor) -> Any:
        seen = self.eye(image)
        both = torch.cat([self.project(seen), self.ear(audio)], 1)
        return self.head(self.fusion(both)), self.eye_head(seen)


class Skips(Plain):
    """An encoder that what follows reads in two places, as a U-Net's."""

    def forward(self, image: Tensor, audio: Tensor) -> Any:
        seen = self.eye[0](image)
        both = torch.cat([self.project(self.eye[1](seen)) + seen[:, :4], self.ear(audio)], 1)
        return self.head(self.fusion(both))


class Past(Plain):
    """A modality of which something passes by its encoder."""

    def forward(self, image: Tensor, audio: Tensor) -> Any:
        both = torch.cat([self.project(self.eye(image)) + image[:, :4], self.ear(audio)], 1)
        return self.head(self.fusion(both))


class Late(nn.Module):
    """Logits of two networks, added."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.ear = mlp(6, 3), mlp(5, 3)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        out: Tensor = self.eye(image) + self.ear(audio)
        return out


class HeadOnly(nn.Module):
    """One layer that reads both and answers."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.ear, self.head = mlp(6, 8), mlp(5, 8), nn.Linear(16, 3)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([self.eye(image), self.ear(audio)], 1))
        return out


class HeadOfTwo(HeadOnly):
    """A head with a hidden layer, which is where they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 3))  # type: ignore[assignment]


class Early(nn.Module):
    """One layer for both from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(11, 9), nn.ReLU(), nn.Linear(9, 3))

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([image, audio], 1))
        return out


class Wrapped(nn.Module):
    """A network within a network, as libraries nest them, whose tokens stand side by side before they are mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classifier = Body(), nn.Linear(8, 3)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.body(image, audio).mean(1))
        return out


class Body(nn.Module):
    """Embeddings, and a transformer over them."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        out: Tensor = self.encoder(self.embeddings(image, audio))
        return out


class Embeddings(nn.Module):
    """A token of each."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.ear = nn.Linear(6, 8), nn.Linear(5, 8)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        return torch.stack([self.eye(image), self.ear(audio)], 1)


class Crossed(nn.Module):
    """One modality asks the other: the layer has a projection for each inside."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.ear = nn.Linear(6, 8), nn.Linear(5, 8)
        self.cross = Asking()
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        out: Tensor = self.head(self.cross(self.eye(image), self.ear(audio)))
        return out


class Asking(nn.Module):
    """A product of two projections, and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.ask, self.answer, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        out: Tensor = self.out(self.ask(one) * self.answer(other))
        return out


CASES: list[tuple[type[nn.Module], str | None, str | None, str | None]] = [
    (Plain, "project", "ear", "fusion"),
    (Auxiliary, "eye", "ear", "fusion"),  # behind which both of its ways lead on
    (Skips, "eye.0", "ear", "fusion"),
    (Past, None, "ear", "fusion"),
    (Late, "eye", "ear", None),
    (HeadOnly, "eye", "ear", "head:input"),
    (HeadOfTwo, "eye", "ear", "head.0"),
    (Early, None, None, "net.0"),
    (Wrapped, "body.embeddings.eye", "body.embeddings.ear", "body.encoder"),
    (Crossed, "eye", "ear", "cross"),
]


@pytest.mark.parametrize(("kind", "image", "audio", "fusion"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_encoders_and_fusion(kind: type[nn.Module], image: str | None, audio: str | None, fusion: str | None) -> None:
    torch.manual_seed(1)
    model = kind()
    found = written_for(model, columns())
    encoders = {name: section.encoder for name, section in found.observed.sections.items()}
    assert encoders == {"image": image, "audio": audio}
    assert found.observed.fusion == fusion
    assert found.verified.refused is None, found.verified.refused
    assert found.observed.outcome.task == "classification"


def test_names_make_no_difference() -> None:
    torch.manual_seed(1)
    model = Plain()
    renamed = nn.Module()
    renamed.zz, renamed.aa, renamed.head = model.eye, model.ear, model.project  # the head is one modality's projection
    renamed.image, renamed.x = model.fusion, model.head

    def forward(image: Tensor, audio: Tensor) -> Tensor:
        out: Tensor = renamed.x(renamed.image(torch.cat([renamed.head(renamed.zz(image)), renamed.aa(audio)], 1)))
        return out

    renamed.forward = forward  # type: ignore[method-assign]
    found = observed_of(renamed, columns())
    assert {m: s.encoder for m, s in found.sections.items()} == {"image": "head", "audio": "aa"}
    assert found.fusion == "image"


def test_watching_leaves_no_hooks() -> None:
    ground = ground_of(Plain(), columns())
    form = CallForm("kwargs", ("image", "audio"))
    runner = ground.runner(form, fields_as_units(form.keys))
    watched = watch(runner, ground.with_rows(runner, "test", 7))
    assert watched.moves == {"image": True, "audio": True}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in runner.model.modules())


def test_of_large_tensors_every_channel_is_looked_at() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.head = nn.Identity(), nn.Linear(2, 3)

        def forward(self, image: Tensor, audio: Tensor) -> Tensor:
            maps = torch.stack([image[:, :1].repeat(1, 10_000), audio[:, :1].repeat(1, 10_000)], -1)
            out: Tensor = self.head(self.both(maps).mean(1))
            return out

    ground = ground_of(Large(), columns())
    form = CallForm("kwargs", ("image", "audio"))
    runner = ground.runner(form, fields_as_units(form.keys))
    watched = watch(runner, ground.with_rows(runner, "test", 7))
    (both,) = (seen for seen in watched.calls if seen.call.path == "both")
    assert both.leaving == {"image", "audio"}
    assert len(both.mixed) == 1  # side by side, and not mixed


def test_a_field_that_moves_nothing_is_told() -> None:
    class Deaf(Plain):
        def forward(self, image: Tensor, audio: Tensor, noise: Tensor) -> Any:
            del noise
            return super().forward(image, audio)

    found = written_for(Deaf(), columns(noise=torch.randn(N, 4)))
    assert list(found.observed.sections) == ["image", "audio"]
    assert found.observed.also == ("noise",)
    assert any("Unused by the model: noise" in note for note in found.observed.notes)
    assert found.verified.refused is None


def test_a_modality_that_never_reaches_the_answer_still_has_its_encoder() -> None:
    torch.manual_seed(1)
    model = Plain()
    model.head = nn.Sequential(*[nn.Linear(7, 7) for _ in range(14)], nn.Linear(7, 3))  # type: ignore[assignment]
    with torch.no_grad():
        model.fusion[0].weight[:, 4:] = 0.0
    found = observed_of(model, columns())
    assert {m: s.encoder for m, s in found.sections.items()} == {"image": "project", "audio": "ear"}
    assert found.tried == {"image": True, "audio": False}
    assert any("did not move with audio" in note for note in found.notes)


def test_the_model_and_random_states_stay_as_they_were() -> None:
    class Counting(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))
            self.seen: list[int] = []
            self.count = nn.Parameter(torch.zeros(1))

        def forward(self, image: Tensor, audio: Tensor) -> Any:
            self.calls += 1
            self.count.data.add_(1)  # in place, as some do
            self.seen.append(len(image))
            return super().forward(image, audio) + 0 * torch.rand(1)

    model = Counting().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    model.eye.eval()
    modes = [module.training for module in model.modules()]
    data = columns()
    torch.set_rng_state(random)
    ground = ground_of(model, data)
    model.train()
    model.eye.eval()
    observe(ground)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.seen == []
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
