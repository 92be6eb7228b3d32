"""Which modules a change of one modality passes, where it ends, and whether what it passes is dead or saturated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

BOUND = 0.999  # of an output within [-1, 1]: from here on its slope is next to nothing


@dataclass(frozen=True)
class Passage:
    """One run of one leaf module: prints of what went in and came out, by which a change is known, and what came out."""

    path: str
    kind: str
    into: tuple[float, ...]
    out: tuple[float, ...]
    saturated: float  # share of outputs near both ends of [-1, 1]
    zero: float  # share of outputs that are 0
    variation: float  # spread over examples, as a share of the root mean square


@dataclass
class Trace:
    """The leaf modules in the order in which they ran."""

    passages: list[Passage] = field(default_factory=list)


@contextmanager
def follow(model: nn.Module, size: int, *, describe: bool) -> Iterator[Trace]:
    """Note what passes each leaf module while the block runs; the hooks are taken away again.

    Args:
        model: The user's module.
        size: How many examples it is given.
        describe: Whether to look at what modules give as well, and not only for changes.

    Yields:
        The trace, which is filled when the block ends.
    """
    trace, pending = Trace(), list[tuple[str, str, Tensor, Tensor, Tensor]]()
    handles = [
        module.register_forward_hook(_hook(path, pending, size if describe else None))
        for path, module in model.named_modules()
        if not any(True for _ in module.children()) and not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()
    # One copy from the device for all modules.
    if pending:
        rows = torch.stack([torch.cat([into, out, about]) for _, _, into, out, about in pending]).tolist()
        for (path, kind, *_), row in zip(pending, rows, strict=True):
            trace.passages.append(Passage(path, kind, tuple(row[:2]), tuple(row[2:4]), *row[4:]))


def _hook(path: str, pending: list[tuple[str, str, Tensor, Tensor, Tensor]], size: int | None) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        into = [a for a in args if isinstance(a, Tensor) and a.numel()]
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel() and into:
            out = output.detach()
            about = _describe(out, size) if size is not None else out.new_zeros(3, dtype=torch.float64)
            pending.append((path, type(module).__name__, _print(into[0].detach()), _print(out), about))

    return hook


def _print(x: Tensor) -> Tensor:
    """Two sums by which a change is known, as positions weigh differently."""
    flat = x.reshape(len(x), -1) if x.dim() else x.reshape(1, 1)
    weights = torch.arange(1, len(flat) + 1, dtype=torch.float64, device=x.device)
    total = flat.sum(1, dtype=torch.float64)
    if not flat.is_floating_point():
        flat = flat.float()
    size = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64 if x.device.type == "cpu" else torch.float32)
    return torch.stack([total @ weights, size.double() @ weights])


def _describe(x: Tensor, size: int) -> Tensor:
    """Share of outputs at the bounds of [-1, 1] or [0, 1], share of zeros, spread over examples beside the size."""
    rows = x.reshape(size, -1) if size > 1 and len(x) % size == 0 else x.reshape(1, -1)
    rows = rows.float().nan_to_num(0.0, 0.0, 0.0)
    large = rows.abs()
    inside, ends = (large.amax() <= 1).double(), large > BOUND
    zero = rows == 0
    two_sided = (rows < -BOUND).any()
    # Of [0, 1] both ends have to be there, or a softmax over many classes would count.
    near = torch.where(ends.any(), (ends | (large < 1 - BOUND)).double().mean(), 0.0)
    saturated = inside * torch.where(
        two_sided, ends.double().mean(), torch.where(ends.double().mean() > 0.2, near, 0.0)
    )
    square = rows.square().mean().double().sqrt()
    spread = rows.var(0, correction=0).mean().double().sqrt()
    return torch.stack([saturated, zero.double().mean(), spread / square.clamp_min(1e-30)])


@dataclass(frozen=True)
class Effect:
    """What the exchange of one modality did inside of the model.

    ``entered``: whether it changed what any leaf module was given; ``end``: the first module that was given something else
    and gave the same; ``own``: the passages that it alone changed, with what they gave in the plain pass.
    """

    entered: bool
    end: Passage | None
    own: tuple[Passage, ...]


def compare_traces(plain: Trace, exchanged: dict[str, Trace]) -> dict[str, Effect]:
    """Hold the passes with one modality exchanged against the plain one.

    Args:
        plain: The pass as it was.
        exchanged: By modality, the pass with its examples moved on.

    Returns:
        By modality, what the exchange did; of passes whose modules ran otherwise, nothing.
    """
    paths = [p.path for p in plain.passages]
    alike = {m: t for m, t in exchanged.items() if [p.path for p in t.passages] == paths}
    into = {m: [a.into != b.into for a, b in _pairs(plain, t)] for m, t in alike.items()}
    out = {m: [a.out != b.out for a, b in _pairs(plain, t)] for m, t in alike.items()}
    found = {}
    for m in alike:
        ends = [p for i, p in enumerate(plain.passages) if into[m][i] and not out[m][i]]
        own = tuple(
            p
            for i, p in enumerate(plain.passages)
            if into[m][i] and not any(into[other][i] for other in alike if other != m)
        )
        found[m] = Effect(any(into[m]), ends[0] if ends else None, own)
    return found


def _pairs(plain: Trace, other: Trace) -> Iterator[tuple[Passage, Passage]]:
    return zip(plain.passages, other.passages, strict=True)
