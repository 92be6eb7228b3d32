"""Models: one encoder a modality, one of seven ways to fuse, a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

FUSIONS = ("concat", "sum", "gated", "attention", "bilinear", "film", "late")


class Fusion(nn.Module):
    """Features (n, w) of every modality to one representation (n, D)."""

    def __init__(self, kind: str, count: int, width: int, fused: int, rank: int | None, outputs: int) -> None:
        super().__init__()
        self.kind, self.count = kind, count
        if kind == "concat":
            self.mix = nn.Sequential(nn.Linear(count * width, fused), nn.ReLU(), nn.Linear(fused, fused))
        elif kind == "sum":
            self.parts = nn.ModuleList(nn.Linear(width, fused) for _ in range(count))
            self.mix = nn.Sequential(nn.ReLU(), nn.Linear(fused, fused))
        elif kind == "gated":
            self.parts = nn.ModuleList(nn.Linear(width, fused) for _ in range(count))
            self.gate = nn.Linear(count * width, count * fused)
            self.mix = nn.Sequential(nn.Linear(fused, fused), nn.ReLU(), nn.Linear(fused, fused))
        elif kind == "attention":
            self.place = nn.Parameter(0.1 * torch.randn(count + 1, width))
            self.mix = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            self.out = nn.Linear(width, fused)
        elif kind == "bilinear":
            self.parts = nn.ModuleList(nn.Linear(width + 1, fused) for _ in range(count))
            self.mix = nn.Linear(fused, fused)
        elif kind == "film":
            self.first = nn.Linear(width, fused)
            self.parts = nn.ModuleList(nn.Linear(width, 2 * fused) for _ in range(count - 1))
            self.mix = nn.Sequential(nn.ReLU(), nn.Linear(fused, fused))
        elif kind == "late":
            self.parts = nn.ModuleList(nn.Linear(width, outputs) for _ in range(count))
        else:
            raise ValueError(f"no fusion is called {kind!r}")
        self.narrow = (
            None
            if rank is None or kind == "late"
            else nn.Sequential(nn.Linear(fused, rank, bias=False), nn.Linear(rank, fused, bias=False))
        )

    def forward(self, *x: Tensor) -> Tensor:
        out = getattr(self, f"_{self.kind}")(x)
        return out if self.narrow is None else self.narrow(out)

    def _concat(self, x: Sequence[Tensor]) -> Tensor:
        return self.mix(torch.cat(list(x), 1))

    def _sum(self, x: Sequence[Tensor]) -> Tensor:
        return self.mix(sum(p(v) for p, v in zip(self.parts, x, strict=True)))

    def _gated(self, x: Sequence[Tensor]) -> Tensor:
        gates = self.gate(torch.cat(list(x), 1)).unflatten(1, (self.count, -1)).softmax(1)
        parts = torch.stack([p(v) for p, v in zip(self.parts, x, strict=True)], 1)
        return self.mix((gates * torch.tanh(parts)).sum(1) * self.count)

    def _attention(self, x: Sequence[Tensor]) -> Tensor:
        tokens = torch.stack([torch.zeros_like(x[0]), *x], 1) + self.place
        return self.out(self.mix(tokens)[:, 0])

    def _bilinear(self, x: Sequence[Tensor]) -> Tensor:
        one = torch.ones(len(x[0]), 1)
        product = torch.ones(())
        for part, value in zip(self.parts, x, strict=True):
            product = product * part(torch.cat([value, one], 1))
        return self.mix(torch.tanh(product))

    def _film(self, x: Sequence[Tensor]) -> Tensor:
        out = self.first(x[0])
        for part, value in zip(self.parts, x[1:], strict=True):
            scale, shift = part(value).chunk(2, 1)
            out = out * (1 + scale) + shift
        return self.mix(out)

    def _late(self, x: Sequence[Tensor]) -> Tensor:
        return torch.stack([p(v) for p, v in zip(self.parts, x, strict=True)]).mean(0)


class Model(nn.Module):
    """Encoders, fusion, head. ``bypass`` names modalities whose features reach the fused representation through a
    fixed projection that the head gives no weight: high rank, and ignored all the same."""

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        fusion: str = "concat",
        width: int = 16,
        hidden: int = 32,
        fused: int = 24,
        rank: int | None = None,
        bypass: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.bypass = tuple(bypass)
        self.through = [m for m in dims if m not in self.bypass]
        self.encoders = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, width)) for m, d in dims.items()}
        )
        inner = Fusion(fusion, len(self.through), width, fused, rank, outputs)
        self.fusion = Beside(inner, len(self.through), len(self.bypass), width) if self.bypass else inner
        size = outputs if fusion == "late" else fused
        self.head = nn.Identity() if fusion == "late" and not self.bypass else Head(size, outputs, fusion == "late")

    def forward(self, **x: Tensor) -> Tensor:
        features = {m: encoder(x[m]) for m, encoder in self.encoders.items()}
        out: Tensor = self.head(self.fusion(*(features[m] for m in [*self.through, *self.bypass])))
        return out


class Beside(nn.Module):
    """What a fusion makes of the first features, and a fixed projection of the others beside it."""

    def __init__(self, inner: Fusion, through: int, others: int, width: int) -> None:
        super().__init__()
        self.inner, self.through = inner, through
        self.register_buffer("fixed", torch.randn(others * width, others * width) / width**0.5)

    def forward(self, *x: Tensor) -> Tensor:
        return torch.cat([self.inner(*x[: self.through]), torch.cat(x[self.through :], 1) @ self.fixed], 1)


class Head(nn.Module):
    """A linear head on the first ``size`` columns of the fused representation."""

    def __init__(self, size: int, outputs: int, keep: bool) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Identity() if keep else nn.Linear(size, outputs)

    def forward(self, fused: Tensor) -> Tensor:
        out: Tensor = self.linear(fused[:, : self.size])
        return out


def build(**kwargs: object) -> nn.Module:
    """The factory a config names."""
    return Model(**kwargs)  # type: ignore[arg-type]
