"""plan_merge: what LoRA adds, put into the weights of a model that has its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collapsekit.checkpoint.match import MARK_SETS, without_marks
from collapsekit.checkpoint.sidecars.peft import LoraAdapter, LowRank
from collapsekit.errors import ConfigError
from collapsekit.io.safe_text import quote
from collapsekit.stats.linalg.spectrum import effective_rank

_MOST_DROPPED = 4  # components in front of an adapter's names that a part of its base does not have


@dataclass(frozen=True)
class MergedWeight:
    """A weight that an adapter changed: its name, the rank of what was added, and how many directions that spreads over."""

    name: str
    rank: int
    effective_rank: float | None  # of B A, as collapsekit.stats.linalg.spectrum has it; None where it adds nothing


@dataclass(frozen=True)
class MergePlan:
    """Which of a model's weights an adapter changes, once all of them are there and of its shapes."""

    adapter: LoraAdapter
    there: Mapping[str, str]  # the adapter's name -> the model's

    def merge(self, model: nn.Module) -> tuple[MergedWeight, ...]:
        """Put the adapter into a model that has the weights of its base. Returns which weights were changed."""
        values = model.state_dict()
        merged = []
        with torch.no_grad():
            for part in self.adapter.parts:
                name = self.there[f"{part.path}.weight"]
                values[name].copy_(part.merged(values[name].detach().cpu()))
                merged.append(MergedWeight(name, part.a.shape[0], _spread(part)))
                if part.bias is not None:
                    values[self.there[f"{part.path}.bias"]].add_(part.scaling * part.bias.reshape(-1))
            for name, tensor in self.adapter.whole.items():
                values[self.there[name]].copy_(tensor)
        return tuple(merged)


def plan_merge(model: nn.Module, adapter: LoraAdapter, ties: Mapping[str, Sequence[str]]) -> MergePlan:
    """Find the weights that an adapter changes, by name and shape.

    Args:
        model: that will get the weights of the adapter's base.
        adapter: what is added.
        ties: name of a weight -> names of the same tensor.

    Returns:
        The plan, which cannot fail.

    Raises:
        ConfigError: where a weight is not there, of another shape, another's as well, or several.
    """
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    needed = {f"{part.path}.weight": part.shape for part in adapter.parts}
    needed |= {f"{p.path}.bias": (p.b.shape[0],) for p in adapter.parts if p.bias is not None}
    needed |= {name: tuple(tensor.shape) for name, tensor in adapter.whole.items()}
    there = _places(list(shapes), list(needed))
    for name, shape in needed.items():
        here = shapes[there[name]]
        if here != shape:
            raise ConfigError(
                f"the adapter does not fit the model ({quote(there[name], 100)} is {here}, it was trained for {shape}): "
                "check model.factory and model.kwargs."
            )
    for part in adapter.parts:
        _need_untied(there[f"{part.path}.weight"], ties)
    return MergePlan(adapter, there)


def _spread(part: LowRank) -> float | None:
    sigma = part.singular_values()
    return effective_rank(sigma) if bool(sigma.any()) else None


def _need_untied(name: str, ties: Mapping[str, Sequence[str]]) -> None:
    others = [other for other in ties.get(name, ()) if other != name]
    if others:
        raise ConfigError(
            f"the adapter changes {quote(name, 100)} alone, which is the same tensor as {quote(others[0], 100)} in the "
            "model: let the model's constructor untie them, or give the merged model's own weights."
        )


def _places(names: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Adapter's name -> the model's, all under one prefix of the model, and less as many components of their own."""
    for marks in MARK_SETS:
        plain = {without_marks(n, marks): n for n in names}
        if len(plain) < len(names):
            continue
        for short in _shortened(wanted, marks):
            first = next(iter(short.values()))
            ends = [n for n in plain if n == first or n.endswith(f".{first}")]
            prefixes = [n.removesuffix(first) for n in ends]
            fitting = [p for p in prefixes if all(p + n in plain for n in short.values())]
            if len(fitting) > 1:
                raise ConfigError(
                    f"the adapter fits several parts of the model ({', '.join(quote(p, 60) for p in fitting[:3])}): give "
                    "the merged model's own weights."
                )
            if fitting:
                return {name: plain[fitting[0] + n] for name, n in short.items()}
    known = {without_marks(n, MARK_SETS[0]) for n in names}
    lost = [n for n in wanted if not any(k == n or k.endswith(f".{n}") for k in known)] or list(wanted)
    raise ConfigError(
        f"the adapter does not fit the model ({len(lost)} of the {len(wanted)} weights that it changes are not there: "
        f"{', '.join(quote(n, 100) for n in lost[:3])}): check model.factory and model.kwargs."
    )


def _shortened(wanted: Sequence[str], marks: tuple[str, ...]) -> list[dict[str, str]]:
    """The names as they are, and with one, two, ... first components left out that are the same in all."""
    views = [{n: without_marks(n, marks) for n in wanted}]
    while len(views) <= _MOST_DROPPED and len({n.partition(".")[0] for n in views[-1].values()}) == 1:
        shorter = {n: short.partition(".")[2] for n, short in views[-1].items()}
        if not all("." in short for short in shorter.values()):
            break
        views.append(shorter)
    return views
