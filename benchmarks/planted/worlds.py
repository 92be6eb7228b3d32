"""Worlds: where labels come from, what every modality sees of them, and the exact posterior for any subset.

A world is a table of hidden states: a probability, a target, and one symbol a modality. A modality shows its symbol
as a Gaussian around a code vector, so the best possible prediction from any subset of modalities is a finite sum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

Role = Literal["unique", "redundant", "synergy", "noise"]


@dataclass(frozen=True)
class World:
    """Hidden states and how they are seen; targets are class numbers, rows of bits, or values."""

    name: str
    task: str
    roles: dict[str, Role]
    prior: Tensor  # (S,)
    target: Tensor  # (S,) or (S, K)
    symbols: Tensor  # (S, m)
    codes: list[Tensor]  # per modality (symbols, clusters, d)
    blur: float = 0.0  # standard deviation of the target around its state's (regression)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.roles)

    @property
    def outputs(self) -> int:
        """Outputs a model of this world needs."""
        if self.task == "classification":
            return int(self.target.max()) + 1
        return 1 if self.target.ndim == 1 else self.target.shape[1]

    def sample(self, n: int, seed: int) -> dict[str, Tensor]:
        """``n`` examples: every modality (n, d), and ``label``."""
        g = torch.Generator().manual_seed(seed)
        state = torch.multinomial(self.prior, n, replacement=True, generator=g)
        out = {}
        for i, m in enumerate(self.modalities):
            codes = self.codes[i]
            cluster = torch.randint(codes.shape[1], (n,), generator=g)
            out[m] = codes[self.symbols[state, i], cluster] + torch.randn(n, codes.shape[2], generator=g)
        label = self.target[state]
        out["label"] = label + self.blur * torch.randn(label.shape, generator=g) if self.blur else label
        return out

    def best(self, x: dict[str, Tensor], present: Collection[str]) -> Tensor:
        """The exact posterior expectation of the target given some modalities: probabilities (n, C) or values."""
        log = self.prior.double().log().expand(len(x["label"]), -1)
        for i, m in enumerate(self.modalities):
            if m in present:
                far = torch.cdist(x[m].double(), self.codes[i].double().flatten(0, 1)) ** 2
                seen = (-far / 2).unflatten(1, self.codes[i].shape[:2]).logsumexp(2)
                log = log + seen[:, self.symbols[:, i]]
        weight = log.softmax(1)
        if self.task == "classification":
            return weight @ torch.nn.functional.one_hot(self.target, self.outputs).double()
        return weight @ self.target.double()


def _codes(symbols: int, d: int, distance: float, clusters: int, g: torch.Generator) -> Tensor:
    """Code vectors (symbols, clusters, d), neighbours about ``distance`` apart. With two clusters a symbol they lie
    opposite each other, so that no linear readout of the raw input tells the symbols apart."""
    basis = torch.linalg.qr(torch.randn(max(d, symbols), max(d, symbols), generator=g))[0][:symbols, :d]
    scale = distance / 2**0.5
    if clusters == 1:
        return (scale * basis)[:, None]
    return torch.stack([scale * basis, -scale * basis], 1)


def make_world(
    kind: str,
    modalities: int = 2,
    *,
    task: str = "classification",
    classes: int = 3,
    distances: Sequence[float] = (4.0,),
    dims: Sequence[int] = (16,),
    clusters: int = 1,
    skew: float = 1.0,
    seed: int = 0,
) -> World:
    """A world of one kind: complementary, redundant, synergy, mixed; ``+noise`` adds a modality that says nothing.

    ``distances``: between codes in units of the noise, one a modality (the last is repeated); ``skew``: how much
    likelier each class is than the next.
    """
    base, _, extra = kind.partition("+")
    informative = modalities - (extra == "noise")
    rows, roles = _table(base, informative, task, classes)
    weight = torch.tensor([skew ** -float(sum(_as_tuple(t))) for t, _ in rows])
    target = torch.tensor([t for t, _ in rows])
    if task == "regression":
        target = target.float()
        target = (target - target.mean()) / target.std()
    elif task == "multilabel":
        target = target.float()
    symbols = torch.tensor([s for _, s in rows])
    g = torch.Generator().manual_seed(seed)
    if extra == "noise":
        symbols = torch.cat([symbols, torch.zeros(len(symbols), 1, dtype=torch.long)], 1)
        roles = [*roles, "noise"]
    order = torch.randperm(modalities, generator=g).tolist()  # which name is which must not matter
    distance = [distances[min(i, len(distances) - 1)] for i in range(modalities)]
    width = [dims[min(i, len(dims) - 1)] for i in range(modalities)]
    codes = [_codes(max(2, int(symbols[:, i].max()) + 1), width[i], distance[i], clusters, g) for i in order]
    names = [f"m{i}" for i in range(modalities)]
    return World(
        name=kind,
        task=task,
        roles={name: roles[i] for name, i in zip(names, order, strict=True)},
        prior=weight / weight.sum(),
        target=target,
        symbols=symbols[:, order],
        codes=[c if roles[i] != "noise" else c[:1] for c, i in zip(codes, order, strict=True)],
        blur=0.3 if task == "regression" else 0.0,
    )


def _as_tuple(target: int | tuple[int, ...]) -> tuple[int, ...]:
    return target if isinstance(target, tuple) else (target,)


def _table(
    kind: str, m: int, task: str, classes: int
) -> tuple[list[tuple[int | tuple[int, ...], tuple[int, ...]]], list[Role]]:
    """Rows of (target, symbols) over equally likely hidden bits, and the role of each modality."""
    if kind == "redundant":
        if task == "multilabel":
            bits = list(product((0, 1), repeat=3))
            return [(b, (4 * b[0] + 2 * b[1] + b[2],) * m) for b in bits], ["redundant"] * m
        return [(y, (y,) * m) for y in range(classes)], ["redundant"] * m
    if kind == "complementary":
        bits = list(product((0, 1), repeat=m))
        if task == "multilabel":
            return [(b, b) for b in bits], ["unique"] * m
        if task == "classification" and m == 2:
            return [(2 * b[0] + b[1], b) for b in bits], ["unique"] * m
        return [(sum(b), b) for b in bits], ["unique"] * m
    if kind == "synergy":
        return _synergy_rows(m, task), _synergy_roles(m)
    if kind != "mixed":
        raise ValueError(f"no world is called {kind!r}")
    # A pair that matters only together, a modality with its own part, and its copies.
    rows: list[tuple[int | tuple[int, ...], tuple[int, ...]]] = []
    for a, b, c in product((0, 1), repeat=3):
        symbols = (a, b, *([c] * (m - 2)))
        rows.append((((a ^ b), c) if task == "multilabel" else 2 * (a ^ b) + c, symbols))
    own: list[Role] = ["unique"] if m == 3 else ["redundant"] * (m - 2)
    return rows, ["synergy", "synergy", *own]


def _synergy_rows(m: int, task: str) -> list[tuple[int | tuple[int, ...], tuple[int, ...]]]:
    """The first two modalities matter only together; any further say their own."""
    bits = list(product((0, 1), repeat=m))
    if task == "multilabel":
        return [((b[0] ^ b[1], *b[2:], b[0] ^ b[1]), b) for b in bits]
    if task == "regression":
        return [(2 * (b[0] ^ b[1]) + sum(b[2:]), b) for b in bits]
    return [((b[0] ^ b[1]) * 2 ** (m - 2) + _number(b[2:]), b) for b in bits]


def _number(bits: Sequence[int]) -> int:
    return sum(b << i for i, b in enumerate(bits))


def _synergy_roles(m: int) -> list[Role]:
    return ["synergy", "synergy", *(["unique"] * (m - 2))]  # type: ignore[list-item]
