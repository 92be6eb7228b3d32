"""Which fields move what a submodule is given and what it gives, call by call, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.live.state import same_bits
from collapsekit.adapters.pytree import flatten
from collapsekit.autoconfig.running.runner import AGAIN, FieldRunner, numbers_of
from collapsekit.data.base import Batch
from collapsekit.errors import CollapsekitError

_MOST_NUMBERS = 1 << 15  # of a tensor that are compared
_LOOSE = 64.0  # times the precision of a type: what counts as the same


@dataclass
class ModuleCall:
    """One call of a submodule: its place among all, and samples of what entered and left it."""

    path: str
    number: int  # which of the submodule's calls
    start: int
    end: int = -1
    inside: tuple[int, ...] = ()  # calls that it was made in, by their place, outermost first
    weights: bool = False  # whether the submodule, or one below, has parameters
    entered: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)
    sizes: tuple[int, ...] = ()  # numbers in each tensor that left


@dataclass(frozen=True)
class Seen:
    """What one call depends on. ``mixed``: the fields that move one and the same number of what left it, most of all."""

    call: ModuleCall
    entering: frozenset[str]
    leaving: frozenset[str]
    mixed: frozenset[str]


@dataclass(frozen=True)
class Watched:
    """One forward pass, and what each field moves in it."""

    calls: tuple[Seen, ...]  # in the order in which they began
    moves: dict[str, bool]  # by field, whether it moves anything
    answers: frozenset[str]  # fields that move the answer
    same: frozenset[str]  # fields that are the same in all rows, so that nothing can be seen
    output: Any
    failed: dict[str, str]  # by field, what the model said to rows of other examples

    def inner(self) -> list[Seen]:
        """List the calls of submodules in the order in which they ended, the model itself left out."""
        return sorted((c for c in self.calls if c.call.path), key=lambda c: c.call.end)


def watch(runner: FieldRunner, batch: Batch) -> Watched:
    """Run a model on a batch, then once more for each of its modalities, with that of other examples.

    Args:
        runner: the model.
        batch: inputs (n, ...) by key, some rows.

    Returns:
        What was seen.
    """
    names = [m for m in runner.modalities if not m.endswith(AGAIN)]
    rows = len(next(iter(batch.values())))
    plain, output = _pass(runner, batch)
    answer = numbers_of(output, rows)
    marks = {(c.path, c.number): _Marks(c) for c in plain}
    same, failed, answers = set[str](), dict[str, str](), set[str]()
    for i, name in enumerate(names):
        own = {k: batch[k].roll(1, 0) for k in runner.fields.of(name)}
        moved = {**batch, **own}
        if all(same_bits(own[k], batch[k]) for k in own):
            same.add(name)
            continue
        try:
            calls, other = _pass(runner, moved)
        except CollapsekitError as e:
            failed[name] = str(e)
            continue
        _note(marks, calls, i)
        if _moved(answer, numbers_of(other, rows)) is not None:
            answers.add(name)
    seen = tuple(marks[c.path, c.number].seen(names) for c in plain)
    moves = {m: m in answers or any(m in s.leaving for s in seen) for m in names}
    return Watched(seen, moves, frozenset(answers), frozenset(same), output, failed)


class _Marks:
    """Which fields moved each number of what entered and left one call, a bit a field."""

    def __init__(self, call: ModuleCall) -> None:
        self.call = call
        self.entered = [torch.zeros(len(t), dtype=torch.int64) for t in call.entered]
        self.left = [torch.zeros(len(t), dtype=torch.int64) for t in call.left]

    def add(self, other: ModuleCall | None, bit: int) -> None:
        """Mark what is otherwise in the same call of another run; None: there was no such call."""
        pairs = [(self.entered, self.call.entered, other.entered if other else [])]
        pairs.append((self.left, self.call.left, other.left if other else []))
        for marks, mine, theirs in pairs:
            for i, mark in enumerate(marks):
                apart = (
                    _moved(mine[i], theirs[i]) if len(theirs) == len(mine) else torch.ones(len(mark), dtype=torch.bool)
                )
                if apart is not None:
                    mark |= apart.long() << bit

    def seen(self, names: list[str]) -> Seen:
        """Return what was marked, by name."""
        entering, leaving = (_either(marks) for marks in (self.entered, self.left))
        codes = torch.cat(self.left).unique().tolist() if self.left else []
        mixed = max(codes, key=lambda code: (int(code).bit_count(), -code), default=0)
        return Seen(self.call, *(_named(code, names) for code in (entering, leaving, mixed)))


def _either(marks: list[Tensor]) -> int:
    code = 0
    for one in torch.cat(marks).unique().tolist() if marks else []:
        code |= one
    return code


def _named(code: int, names: list[str]) -> frozenset[str]:
    return frozenset(name for i, name in enumerate(names) if code >> i & 1)


def _note(marks: Mapping[tuple[str, int], _Marks], calls: list[ModuleCall], bit: int) -> None:
    there = {(c.path, c.number): c for c in calls}
    for key, mark in marks.items():
        mark.add(there.get(key), bit)


def _moved(one: Tensor, other: Tensor) -> Tensor | None:
    """Which numbers (m,) are otherwise, bool (m,), beyond what arithmetic leaves open; None: none is."""
    one, other = one.reshape(-1), other.reshape(-1)
    if one.shape != other.shape or one.dtype != other.dtype:
        return torch.ones(len(one), dtype=torch.bool)
    apart = one != other
    if one.is_floating_point() or one.is_complex():
        apart &= ~(one.isnan() & other.isnan())
        finite = one.abs()[one.isfinite()]
        size = float(finite.max()) if len(finite) else 0.0
        apart &= ~((one - other).abs() <= _LOOSE * torch.finfo(one.dtype).eps * size)
    return apart if bool(apart.any()) else None


def _pass(runner: FieldRunner, batch: Batch) -> tuple[list[ModuleCall], Any]:
    calls: list[ModuleCall] = []
    seed_everything(0)
    with torch.no_grad(), _listening(runner.model, calls):
        output = runner.answer(batch)
    return [c for c in calls if c.end >= 0], output


@contextmanager
def _listening(model: nn.Module, calls: list[ModuleCall]) -> Iterator[None]:
    """Note every call of every submodule while it lasts."""
    stack: list[tuple[nn.Module, ModuleCall]] = []
    counts: dict[str, int] = {}
    clock = iter(range(1 << 60))

    def before(path: str, weights: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            number = counts[path] = counts.get(path, -1) + 1
            inside = tuple(c.start for _, c in stack)
            call = ModuleCall(path, number, next(clock), inside=inside, weights=weights)
            call.entered = _samples((args, kwargs))
            calls.append(call)
            stack.append((module, call))

        return hook

    def after(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        while stack:
            there, call = stack.pop()
            if there is module:
                call.end, call.left = next(clock), _samples(output)
                call.sizes = tuple(x.numel() for x in flatten(output)[0] if isinstance(x, Tensor))
                return

    handles = []
    for path, module in model.named_modules():
        weights = any(True for _ in module.parameters())
        handles.append(module.register_forward_pre_hook(before(path, weights), with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _samples(value: Any) -> list[Tensor]:
    """Copies of the tensors in a structure, each flat, of long ones evenly spaced numbers."""
    found = []
    for x in flatten(value)[0]:
        if isinstance(x, Tensor) and x.layout is torch.strided and not x.is_meta:
            flat = x.detach().reshape(-1)
            step = max(1, len(flat) // _MOST_NUMBERS)
            step += step % 2 == 0  # an even one would see every second channel only
            found.append(flat[::step].to("cpu", copy=True))
    return found
