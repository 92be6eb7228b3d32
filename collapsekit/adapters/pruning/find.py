"""Found out on the first batch: which modules a replay need not run, as nothing that is read rests on them; tried first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Activations, Adapter
from collapsekit.adapters.build import own_attributes, preserve_rng_state, random_states, seed_everything
from collapsekit.adapters.live.state import same_bits
from collapsekit.adapters.pruning.dependence import Call, Calls, Dependence
from collapsekit.adapters.pruning.placeholder import THIN, Fill, Form, Skip, make_skip
from collapsekit.adapters.recording.recorder import Recorder
from collapsekit.data.base import Batch
from collapsekit.errors import CollapsekitError
from collapsekit.io.transfer import to_cpu

FEW = (2, 3)  # rows of the replays that are watched, of which every tensor is kept
SOME = 16
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_FAILS = (CollapsekitError, RuntimeError)  # a model that wants whole batches, tensors that have no storage


@dataclass(frozen=True)
class SkipPlan:
    """The modules that replays leave out."""

    skips: tuple[Skip, ...]
    fill: Fill = THIN

    @cached_property
    def inside(self) -> tuple[nn.Module, ...]:
        """All that does not run."""
        return tuple(sub for skip in self.skips for sub in skip.module.modules())

    @contextmanager
    def applied(self, rows: int) -> Iterator[None]:
        """Leave them out for a while, of a forward of so many rows.

        Not where one of them trains, when it may draw random numbers, nor under torch.func, where a tensor may have
        another axis than it shows.
        """
        whole = any(m.training for m in self.inside) or torch._C._functorch.peek_interpreter_stack() is not None
        with ExitStack() as stack:
            for skip in () if whole else self.skips:
                if not (skip.late and _heard(skip.module)):  # whoever listens wants what really enters
                    stack.enter_context(skip.applied(rows, self.fill))
            yield


@dataclass(frozen=True)
class Pruning:
    """What is left out, by the modalities that are replayed; and what was to be, where the model then answered otherwise."""

    plans: Mapping[frozenset[str], SkipPlan]
    refused: tuple[str, ...] = ()

    @contextmanager
    def applied(self, modalities: Iterable[str], rows: int) -> Iterator[None]:
        """Wrap a forward of so many rows in which the encoders of ``modalities`` are replayed."""
        plan = self.plans.get(frozenset(modalities))
        with nullcontext() if plan is None else plan.applied(rows):
            yield


NOTHING = Pruning({})


def find_pruning(
    adapter: Adapter,
    batch: Batch,
    recorded: Mapping[str, Activations],
    places: Recorder,
) -> Pruning:
    """Find what replays may leave out, for all modalities and for all but one.

    Args:
        adapter: the model, of which nothing is left out yet.
        batch: the first one.
        recorded: what was recorded of it.
        places: where each modality is recorded, and the fusion is.

    Returns:
        What is left out. Where the model does not answer with the same bits then, nothing is.
    """
    replays, everything = _Replays(adapter, batch, recorded, places), frozenset(recorded)
    plans: dict[frozenset[str], SkipPlan] = {}
    with torch.no_grad(), preserve_rng_state():
        for names in (everything, *(everything - {m} for m in recorded)):
            if names != everything and not plans:  # the more is replayed, the more may be left out
                break
            skips = _find_skips(replays, names)
            plan = replays.tried(skips, names) if skips else None
            if any(skip.late for skip in skips) and not (plan and plan.skips):  # those before the encoders alone
                skips = tuple(skip for skip in skips if not skip.late)
                plan = replays.tried(skips, names) if skips else None
            if plan is None:
                continue
            if not plan.skips:
                return Pruning({}, tuple(skip.path for skip in skips))
            plans[names] = plan
    return Pruning(plans)


@dataclass(frozen=True)
class _Replays:
    """The first batch, to be answered again from its recordings."""

    adapter: Adapter
    batch: Batch
    recorded: Mapping[str, Activations]
    places: Recorder

    @property
    def count(self) -> int:
        return len(next(iter(self.batch.values())))

    def rows(self, count: int) -> Tensor:
        """Numbers of so many examples, some several times where there are fewer."""
        return torch.arange(count) % self.count

    def answer(self, names: frozenset[str], rows: Tensor, *, edited: bool = False) -> tuple[Tensor, ...]:
        """Answer ``rows``, the modalities ``names`` replayed; ``edited``: taken from other examples, and scaled."""

        def taken(t: Tensor) -> Tensor:
            t = t.index_select(0, rows.to(t.device))
            if not edited:
                return t
            return t.roll(1, 0) * 1.5 if t.is_floating_point() else t.roll(1, 0)

        recorded = {m: tuple(map(taken, r)) for m, r in self.recorded.items() if m in names}
        inputs = {k: v.index_select(0, rows.to(v.device)) for k, v in self.batch.items()}
        seed_everything(0)
        if names == self.recorded.keys():
            said = self.adapter.rerun(recorded, inputs).on_cpu()
            return said.fused, said.outputs
        return tuple(to_cpu([self.adapter.outputs_of(recorded, inputs)]))

    def tried(self, skips: Sequence[Skip], names: frozenset[str]) -> SkipPlan | None:
        """The plan under which the model answers with the same bits, whatever is in the place of what is left out: an empty
        one where it does not; None where that cannot be told, as the whole model does not answer, or never twice alike."""
        trials = self._trials(names)
        try:
            whole = [self.answer(names, self.rows(count), edited=edited) for count, edited, _ in trials]
        except _FAILS:
            return None
        for thin in (True, False):
            try:
                for (count, edited, value), expected in zip(trials, whole, strict=True):
                    with SkipPlan(tuple(skips), Fill(value, thin)).applied(count):
                        pruned = self.answer(names, self.rows(count), edited=edited)
                    if not all(map(same_bits, expected, pruned)):
                        again = self.answer(names, self.rows(count), edited=edited)
                        return SkipPlan(()) if all(map(same_bits, expected, again)) else None
                return SkipPlan(tuple(skips), Fill(thin=thin))
            except _FAILS:  # the model writes into what it gets, say
                continue
        return SkipPlan(())

    def _trials(self, names: frozenset[str]) -> list[tuple[int, bool, float]]:
        """Rows, whether what is replayed is edited, and what the modules left out are full of."""
        if names != self.recorded.keys():  # an encoder runs, so of fewer rows
            return [(min(self.count, SOME), True, float("nan")), (FEW[0], False, 0.0)]
        counts = (self.count, False, 0.0), (self.count, True, float("nan"))
        return [*counts, (FEW[0], False, 0.0), (FEW[0], True, float("nan"))]


def _find_skips(replays: _Replays, names: frozenset[str]) -> tuple[Skip, ...]:
    """The outermost modules that feed nothing but encoders of ``names``, or nothing that is read of the answer. None where
    that cannot be told, as for a model whose forward looks at numbers."""
    try:
        free, forms, calls = _find_free(replays, names)
        return _learn_skips(replays, names, free, forms, calls) if free else ()
    except _FAILS:
        return ()


_Forms = dict[int, list[tuple[int, Form]]]


def _find_free(replays: _Replays, names: frozenset[str]) -> tuple[dict[int, bool], _Forms, list[Call]]:
    """Modules of which the answer bears no mark, by id, and whether each runs on what encoders gave (``late``); the forms of
    what modules returned, and all calls."""
    model = replays.adapter.model
    paths = {id(m) for m in model.modules()}
    free: dict[int, bool] | None = None
    forms, calls = dict[int, list[tuple[int, Form]]](), list[Call]()
    for count, gradient in ((FEW[0], False), (FEW[1], False), (FEW[1], True)):
        marks = Dependence(model.modules())
        with torch.set_grad_enabled(gradient), marks.listening():
            mask = marks.of(replays.answer(names, replays.rows(count))) | marks.drawn
        if marks.values_read or marks.elsewhere:
            return {}, forms, calls
        if free is None:
            called = _outside(marks.ended, replays, names)
            free = {id(m): late for m, late in called if id(m) in paths and not _heard(m)}
        reached = {id(m) for m in model.modules() if marks.reaches(m, mask)}
        free = {i: late for i, late in free.items() if i not in reached}
        if not free:
            break
        calls += marks.ended
        for call in marks.ended:
            forms.setdefault(id(call.module), []).append((count, call.form))
    return free or {}, forms, calls


def _outside(calls: Sequence[Call], replays: _Replays, names: frozenset[str]) -> list[tuple[nn.Module, bool]]:
    """Modules that a replay calls outside of replayed encoders, and that hold no tap; whether each is called after the last
    replayed encoder."""
    replayed = {id(replays.places.taps[m].module) for m in names}
    taps = {id(tap.module) for tap in replays.places.all}
    last = max((i for i, call in enumerate(calls) if id(call.module) in replayed), default=0)
    late: dict[int, tuple[nn.Module, bool]] = {}
    for i, call in enumerate(calls):
        if not any(id(outer) in replayed for outer in call.within):
            late.setdefault(id(call.module), (call.module, i >= last))
    return [(m, after) for m, after in late.values() if all(id(sub) not in taps for sub in m.modules())]


def _learn_skips(
    replays: _Replays, names: frozenset[str], free: Mapping[int, bool], forms: _Forms, calls: Sequence[Call]
) -> tuple[Skip, ...]:
    model = replays.adapter.model
    modules = {id(m): (path, m) for path, m in model.named_modules()}
    made = {i: make_skip(*modules[i], forms[i], late=late) for i, late in free.items()}
    left = {i: skip for i, skip in made.items() if skip is not None}
    kept = _keeping(replays, names) if left else []
    while left:
        outer = _outermost(left, calls)
        watch = _Watch(outer, kept)
        with watch.listening():
            replays.answer(names, replays.rows(FEW[0]))
        if not watch.acting:
            return tuple(left[i] for i in left if i in outer)
        left = {i: skip for i, skip in left.items() if i not in watch.acting}
    return ()


def _heard(module: nn.Module) -> bool:
    """Whether someone listens to the module or to what it holds."""
    return any(getattr(sub, hooks, None) for sub in module.modules() for hooks in _HOOKS)


def _outermost(skips: Mapping[int, Skip], calls: Sequence[Call]) -> set[int]:
    """Those that are called at least once outside of all others."""
    return {
        id(call.module)
        for call in calls
        if id(call.module) in skips and not any(id(outer) in skips for outer in call.within)
    }


class _Watch(Calls):
    """Which of some modules do anything beside answering: draw random numbers, or leave something in themselves, in what
    calls them, or in any module (``kept``) that is not the same after a forward."""

    def __init__(self, watched: set[int], kept: Sequence[nn.Module]) -> None:
        super().__init__()
        self.watched, self.kept = watched, kept
        self.acting: set[int] = set()
        self._before: list[Any] = []

    def _begin(self, module: nn.Module, args: Any) -> None:
        if id(module) in self.watched:
            self._before.append((random_states(), self._near(module)))
        super()._begin(module, args)

    def returned(self, module: nn.Module, output: Any) -> None:
        del output
        if id(module) in self.watched:
            drawn, held = self._before.pop()
            if drawn != random_states() or _changed(held, self._near(module)):
                self.acting.add(id(module))

    def _near(self, module: nn.Module) -> _Contents:
        return _contents((*module.modules(), *self.open, *self.kept))


_Contents = dict[tuple[int, str], tuple[Any, int]]


def _keeping(replays: _Replays, names: frozenset[str]) -> list[nn.Module]:
    """Modules that hold something else after a replay than before it."""
    model = replays.adapter.model
    before = _contents(model.modules())
    replays.answer(names, replays.rows(FEW[0]))
    changed = {i for i, _ in _changed(before, _contents(model.modules()))}
    return [m for m in model.modules() if id(m) in changed]


def _contents(modules: Iterable[nn.Module]) -> _Contents:
    """What modules hold: each thing, with how many there are in a collection, or how often a tensor was written into."""
    found = {}
    for module in modules:
        for name, value in (*own_attributes(module).items(), *module._buffers.items(), *module._parameters.items()):
            found[id(module), name] = value, _size(value)
    return found


def _size(value: Any) -> int:
    if isinstance(value, Tensor):
        return 0 if value.is_inference() else value._version
    return len(value) if isinstance(value, list | dict | set) else 0


def _changed(before: _Contents, now: _Contents) -> list[tuple[int, str]]:
    """The places at which something else is than was before."""
    return [
        key
        for key in before.keys() | now.keys()
        if key not in before or key not in now or before[key][0] is not now[key][0] or before[key][1] != now[key][1]
    ]
