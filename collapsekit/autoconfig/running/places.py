"""Where modalities are read and where they meet: candidates by what moves them, each tried before it is believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.adapters.base import ForwardPass, Prediction
from collapsekit.adapters.build import seed_everything
from collapsekit.autoconfig.running.runner import CallForm, FieldRunner, Ground
from collapsekit.autoconfig.running.trace import Seen, Watched
from collapsekit.config.schema import ModalityConfig
from collapsekit.data.base import Batch
from collapsekit.errors import CollapsekitError

_MOST_TRIED = 10  # places for one encoder
_LIKE = 1e-3  # of what exchanging a modality changes: how near a replay has to come
_LOOSE = 1e-6  # of the size of an answer: what is no change


@dataclass(frozen=True)
class FoundPlaces:
    """Encoders by modality (None: edited at the input), where they meet, and what could be tried of them."""

    encoders: dict[str, str | None]
    fusion: str | None
    tried: dict[str, bool]  # by modality with an encoder, whether an exchange there could be held against the input's


@dataclass(frozen=True)
class PlaceTrial:
    """What places are tried with."""

    ground: Ground
    form: CallForm
    units: Mapping[str, ModalityConfig]
    batch: Batch

    def runner(self, encoders: Mapping[str, str | None], fusion: str | None) -> FieldRunner:
        """Make what runs the model with these places."""
        units = {m: s.model_copy(update={"encoder": encoders.get(m)}) for m, s in self.units.items()}
        return self.ground.runner(self.form, units, fusion)

    def runs(self, fusion: str) -> bool:
        """Tell whether the fusion is a place that can be recorded."""
        try:
            with torch.no_grad():
                passed = self.runner({}, fusion).run(self.batch)
        except CollapsekitError:
            return False
        return bool(passed.prediction.fused.numel())

    def holds(self, modality: str, encoders: Mapping[str, str | None], fusion: str | None) -> bool | None:
        """Tell whether a modality, exchanged behind its encoder, gives what it gives exchanged at the input; None where it
        changes nothing that could be compared.

        Args:
            modality: which.
            encoders: of it, and of others.
            fusion: where they meet; None: not known.

        Returns:
            Whether it does.
        """
        try:
            with torch.no_grad():
                runner = self.runner(encoders, fusion)
                seed_everything(0)
                passed = runner.run(self.batch)
                moved = {k: self.batch[k].roll(1, 0) for k in runner.fields.of(modality)}
                seed_everything(0)  # a model may sample
                wanted = runner.run({**self.batch, **moved}).prediction
                rolled = {modality: tuple(t.roll(1, 0) for t in passed.recorded[modality])}
                seed_everything(0)
                answer = runner.rerun({**passed.recorded, **rolled}, self.batch)
        except CollapsekitError:
            return False
        return _agree(passed, wanted, answer)


def find_places(trial: PlaceTrial, watched: Watched) -> FoundPlaces:
    """Find encoders and fusion.

    Args:
        trial: the model, its modalities and some rows.
        watched: what each of these modalities moves.

    Returns:
        The places. An encoder is the last submodule that a modality alone moves and through which all of it passes.
    """
    names = list(trial.units)
    fusion = next((path for path in _meetings(watched, names) if trial.runs(path)), None)
    encoders: dict[str, str | None] = dict.fromkeys(names)
    tried: dict[str, bool] = {}
    for m in names if len(names) > 1 else ():  # of one alone the whole model would be the encoder
        for path in [] if m in watched.failed else _alone(watched, m, fusion):
            held = trial.holds(m, {m: path}, fusion)
            if held is not False:
                encoders[m], tried[m] = path, bool(held)
                break
    if not all(trial.holds(m, encoders, fusion) is not False for m, path in encoders.items() if path is not None):
        encoders, tried = _together(trial, encoders, fusion, tried)
    return FoundPlaces(encoders, fusion, tried)


def _together(
    trial: PlaceTrial, encoders: Mapping[str, str | None], fusion: str | None, tried: Mapping[str, bool]
) -> tuple[dict[str, str | None], dict[str, bool]]:
    """Of encoders that hold one by one those that hold beside one another, in order."""
    kept: dict[str, str | None] = dict.fromkeys(encoders)
    for m, path in encoders.items():
        more = {**kept, m: path}
        if path is not None and all(
            trial.holds(o, more, fusion) is not False for o, p in more.items() if p is not None
        ):
            kept = more
    return kept, {m: tried[m] for m, path in kept.items() if path is not None}


def _alone(watched: Watched, modality: str, fusion: str | None) -> list[str]:
    """Submodules with weights whose output one modality alone moves, the last first: outside of the fusion, and before the
    first layer that another modality enters too, which may be one that nobody hears."""
    calls = watched.inner()
    fusions = {s.call.start for s in calls if s.call.path == fusion}
    met = [s.call.start for s in calls if _is_layer(s, calls) and modality in s.entering and len(s.entering) > 1]
    first = min(met, default=None)
    alone = [s.call for s in reversed(calls) if s.leaving == {modality} and s.call.weights]
    found = [c.path for c in alone if fusions.isdisjoint(c.inside) and (first is None or c.end < first)]
    return list(dict.fromkeys(found))[:_MOST_TRIED]


def _meetings(watched: Watched, names: Sequence[str]) -> Iterator[str]:
    """Where modalities meet, the best place first: the largest submodule that begins where the most of them are first mixed
    within one number, and neither holds the first layer that reads one of them nor ends in the answer."""
    calls = watched.inner()
    first = _first_meeting(calls, frozenset(names))
    if first is None:
        return
    after = [s for s in calls if _is_layer(s, calls) and s.call.end >= first.call.end and s.leaving >= first.leaving]
    last = after[-1] if after else first
    if first is last or _ends(first, last):
        yield f"{first.call.path}:input"
        return
    by_place = {s.call.start: s for s in calls}
    readers = _readers(calls, names)
    chosen = first
    for place in reversed(first.call.inside):
        outer = by_place.get(place)
        if outer is None or _ends(outer, last) or any(outer.call.start in s.call.inside for s in readers):
            break
        chosen = outer
    yield chosen.call.path
    if chosen is not first:
        yield first.call.path


def _first_meeting(calls: Sequence[Seen], names: frozenset[str]) -> Seen | None:
    """The first call that mixes the most modalities within one number; where a modality enters the layers and none of
    them hears it, the first layer that the most of them enter."""
    mixing = max((len(s.mixed & names) for s in calls), default=0)
    layers = [s for s in calls if _is_layer(s, calls)]
    entering = max((len(s.entering & names) for s in layers), default=0)
    if max(mixing, entering) < 2:
        return None
    if mixing >= entering:
        return next(s for s in calls if len(s.mixed & names) == mixing)
    return next(s for s in layers if len(s.entering & names) == entering)


def _readers(calls: Sequence[Seen], names: Sequence[str]) -> list[Seen]:
    """The first layer with weights that each modality moves, where it alone does."""
    found = []
    for name in names:
        first = next((s for s in calls if s.call.weights and name in s.leaving), None)
        if first is not None and len(first.leaving & frozenset(names)) == 1:
            found.append(first)
    return found


def _ends(outer: Seen, last: Seen) -> bool:
    """Whether the last layer that mixes lies within."""
    return outer is last or outer.call.start in last.call.inside


def _is_layer(one: Seen, calls: Sequence[Seen]) -> bool:
    """Whether a call is of a submodule with weights, and of none within."""
    return one.call.weights and not any(one.call.start in s.call.inside and s.call.weights for s in calls)


def _agree(before: ForwardPass, wanted: Prediction, answer: Prediction) -> bool | None:
    """Whether two predictions are the same, measured by how far they are from what there was before."""
    seen = False
    pairs = [
        (before.prediction.outputs, wanted.outputs, answer.outputs),
        (before.prediction.fused, wanted.fused, answer.fused),
    ]
    for base, right, found in pairs:
        if right.shape != found.shape or base.shape != right.shape:
            return False
        if not right.numel():
            continue
        size = _largest(base)
        change, error = _largest(right - base), _largest(found - right)
        if change <= _LOOSE * size:
            if error > _LOOSE * size * 10:
                return False
            continue
        if error > _LIKE * change + _LOOSE * size:
            return False
        seen = True
    return True if seen else None


def _largest(values: Tensor) -> float:
    return float(values.double().nan_to_num().abs().max())
