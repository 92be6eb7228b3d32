"""Models with encoders of every layout, and what tests of inserts put into them."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.inserts import insert, posts_of

N, WIDTH, LATENT = 7, 6, 8


WORLD = {"a": 5, "b": 4, "c": 3}  # inputs of each modality


Pair = namedtuple("Pair", ["other", "found"])


@dataclasses.dataclass
class Loose:
    found: Tensor
    other: Tensor


@dataclasses.dataclass(frozen=True)
class Frozen:
    found: Tensor
    other: Tensor


class Encoder(nn.Module):
    """Features of ``WIDTH`` channels in the layout and the package asked for."""

    def __init__(self, width: int, layout: str = "vector", pack: str = "plain", length: int = 3) -> None:
        super().__init__()
        self.linear, self.layout, self.pack, self.length, self.calls = nn.Linear(width, WIDTH), layout, pack, length, 0
        self.nickname = f"{layout} of {width}"

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        made = torch.tanh(self.linear(x))
        if self.layout != "vector":
            made = made[:, None] * torch.linspace(0.5, 1.5, self.length, dtype=made.dtype)[:, None]  # (n, t, d)
        if self.layout.startswith("map"):
            made = made[:, :, None] * torch.tensor([1.0, -0.7], dtype=made.dtype)[:, None]  # (n, t, 2, d)
        if self.layout.endswith("first"):
            made = made.movedim(-1, 1)
        return PACKS[self.pack][1](made)

    def double_of(self, x: Tensor) -> Tensor:
        """A method of the user's own."""
        return 2 * self.linear(x)


# How an encoder hands its features over: the part's key, how it is packed, how the model unpacks it.
PACKS: dict[str, tuple[Any, Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "plain": (None, lambda f: f, lambda v: v),
    "tuple": (1, lambda f: (f.sum(), f), lambda v: v[1]),
    "list": (0, lambda f: [f, f + 1], lambda v: v[0]),
    "unnamed": (None, lambda f: (f, "said"), lambda v: v[0]),
    "nested": (1, lambda f: (f + 1, (f, f - 1)), lambda v: v[1][0]),
    "dict": ("found", lambda f: {"other": f + 1, "found": f}, lambda v: v["found"]),
    "namedtuple": ("found", lambda f: Pair(f + 1, f), lambda v: v.found),
    "dataclass": ("found", lambda f: Loose(f, f + 1), lambda v: v.found),
    "frozen": ("found", lambda f: Frozen(f, f + 1), lambda v: v.found),
}


LAYOUTS = {  # and the ``channels`` a record says
    "vector": None,
    "tokens": None,
    "tokens-first": "first",
    "map-first": None,
    "map": "last",
}


class Fusion(nn.Module):
    """Pools each modality, and mixes; keeps what it was given."""

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(modalities * WIDTH, 4), 0
        self.given: list[Tensor] = []

    def forward(self, parts: Sequence[Tensor], layouts: Sequence[str]) -> Tensor:
        self.calls, self.given = self.calls + 1, [p.detach().clone() for p in parts]
        last = [p.movedim(1, -1) if layout.endswith("first") else p for p, layout in zip(parts, layouts, strict=True)]
        pooled = [p.flatten(1, -2).mean(1) if p.ndim > 2 else p for p in last]
        return self.linear(torch.cat(pooled, 1))


class Model(nn.Module):
    """Encoders called in ``order``; those of ``silent`` are not called at all: zeros in their places."""

    def __init__(self, encoders: Mapping[str, nn.Module], order: Sequence[str] | None = None) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.order, self.silent = tuple(order or encoders), ()
        self.fusion = Fusion(len(encoders))

    def forward(self, **x: Tensor) -> Tensor:
        called = {m: self.encoders[m](x[m]) for m in self.order if m not in self.silent}
        parts, layouts = [], []
        for m, encoder in self.encoders.items():
            if m in called:
                parts.append(PACKS[encoder.pack][2](called[m]))
                layouts.append(encoder.layout)
            else:
                parts.append(x[m].new_zeros(len(x[m]), WIDTH))
                layouts.append("vector")
        return self.fusion(parts, layouts)


def records(model: nn.Module, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "kind": "basis",
            "modality": m,
            "path": f"encoders.{m}",
            "part": PACKS[getattr(encoder, "pack", "plain")][0],
            "channels": LAYOUTS[getattr(encoder, "layout", "vector")],
            "features": WIDTH,
            "latent": LATENT,
            "hidden": 2 * LATENT,
            **more,
        }
        for m, encoder in model.encoders.items()
    ]


def world(
    layouts: Mapping[str, str] | None = None, packs: Mapping[str, str] | None = None, **how: Any
) -> tuple[Model, dict[str, Tensor]]:
    """A model in eval mode and inputs of it, always the same."""
    layouts, packs = layouts or {}, packs or {}
    lengths = how.pop("lengths", {})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoders = {
            m: Encoder(d, layouts.get(m, "vector"), packs.get(m, "plain"), lengths.get(m, 3)) for m, d in WORLD.items()
        }
        model = Model(encoders, **how).eval()
        return model, {m: torch.randn(N, d) for m, d in WORLD.items()}


def inserted(model: Model, *, learned: bool = True, orders: Mapping[str, Sequence[str]] | None = None) -> Model:
    """The model with heads; ``learned``: whose weights were moved away from where they begin."""
    structure = records(model)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        insert(model, structure)
        for m, post in posts_of(model, "basis").items():
            for p in post.insert.parameters() if learned else ():
                p.data = p.data + 0.2 * torch.randn_like(p)
            if orders:
                post.insert.order.copy_(torch.tensor([post.insert.others.index(o) for o in orders[m]]))
    return model


def masks(*gone: str) -> dict[str, Tensor]:
    """``gone``: by example the absent modalities, as "ab"; cycled over the batch."""
    return {m: torch.tensor([m in gone[i % len(gone)] for i in range(N)]) for m in WORLD}


def by_hand(
    model: Model, x: Mapping[str, Tensor], gone: Mapping[str, Tensor], orders: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """h⁻¹ of g, example by example, channels last: where a modality is absent, g of its first choice among those present
    (the mean over positions, where those differ)."""
    posts = posts_of(model, "basis")
    features = {}
    with torch.no_grad():
        for m, post in posts.items():
            f = PACKS[post.encoder.pack][2](post.encoder(x[m]))
            features[m] = f.movedim(1, -1) if post.encoder.layout.endswith("first") else f
        out = {}
        for m, post in posts.items():
            rows = []
            for i in range(len(x[m])):
                there = [o for o in orders[m] if not bool(gone[o][i])]
                source = m if not bool(gone[m][i]) or not there else there[0]
                g = posts[source].insert.h(features[source][i])
                own = features[m][i]
                if g.shape[:-1] != own.shape[:-1]:
                    flat = g.reshape(-1, g.shape[-1])
                    places = own.shape[:-1]
                    g = flat.mean(0).expand(*places, -1) if len(flat) != places.numel() else flat.reshape(*places, -1)
                rows.append(post.insert.back(g))
            out[m] = torch.stack(rows)
    return out


ORDERS = {"a": ("c", "b"), "b": ("a", "c"), "c": ("b", "a")}


NOBODY = {m: torch.zeros(N, dtype=torch.bool) for m in WORLD}


PATTERNS = ("", "a", "b", "c", "ab", "ac", "bc")


class Interrupted(Exception):
    pass
