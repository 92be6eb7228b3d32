"""How a model wants to be called: found by its signature, and by trying."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import nn

from collapsekit.autoconfig.running.fields import FirstBatch, is_label, look_at
from collapsekit.autoconfig.running.runner import CallForm, FieldRunner, Ground, fields_as_units
from collapsekit.data.base import Batch
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.user_code.frames import one_line

_FEW = 7  # rows that a call is tried on
_MOST_TRIED = 12


@dataclass(frozen=True)
class Called:
    """The first call that a model answered, with what it answered, and what was tried before and failed."""

    form: CallForm
    runner: FieldRunner
    batch: Batch
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Signature:
    """What a model's forward takes by name, and which of that it cannot do without."""

    names: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    any_name: bool = False  # whether it takes names that it does not list

    @classmethod
    def of(cls, model: nn.Module) -> Signature:
        """Read it off the model."""
        try:
            parameters = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):
            return cls()
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY)]
        needed = tuple(p.name for p in plain if p.default is p.empty)
        return cls(tuple(p.name for p in plain), needed, any(p.kind is p.VAR_KEYWORD for p in parameters))


def find_call(ground: Ground, first: FirstBatch, paths: Sequence[str], odd: Mapping[str, str]) -> Called:
    """Find how a model is called on a batch.

    Args:
        ground: the model and the data.
        first: what the first batch holds.
        paths: its fields that have a row an example.
        odd: why other fields cannot be used, for the message.

    Returns:
        The first call that it answers.

    Raises:
        ConfigError: where it answers none, with what was tried.
    """
    failed: list[str] = []
    seen: set[CallForm] = set()
    waiting = chain(_forms(Signature.of(ground.model), first, paths), _of_examples(ground, first))
    form = next(waiting, None)
    while form is not None and len(seen) < _MOST_TRIED:
        fewer = None
        if form.keys and form not in seen:
            seen.add(form)
            try:
                with torch.no_grad():
                    runner = ground.runner(form, fields_as_units(form.keys))
                    batch = ground.with_rows(runner, first.split, _FEW)
                    runner.answer(batch)
                return Called(form, runner, batch, tuple(failed))
            except CollapsekitError as e:
                said = one_line(e.__cause__ or e)
                failed.append(f"{form.call} ({', '.join(form.keys)}): {said}")
                fewer = _without_unknown(form, said)
        form = fewer if fewer is not None else next(waiting, None)
    left = "".join(f"; {key!r} could not be given, as {why.rstrip('.')}" for key, why in odd.items())
    raise ConfigError(
        f"the model answers no call with the fields of split {first.split!r} ({', '.join(paths)}): tried were "
        f"{'; '.join(failed) or 'none'}{left}; name what its forward takes as the data do, or leave --data out and fill in "
        "the config by hand."
    )


def _without_unknown(form: CallForm, error: str) -> CallForm | None:
    """The same call without a name that the model said it does not know."""
    unknown = re.search(r"unexpected keyword argument '([^']+)'", error)
    if form.call != "kwargs" or unknown is None or unknown[1] not in form.keys:
        return None
    return replace(form, keys=tuple(key for key in form.keys if key != unknown[1]))


def _forms(signature: Signature, first: FirstBatch, paths: Sequence[str]) -> Iterator[CallForm]:
    if first.parts:
        yield from _of_tuples(signature, first.parts, paths)
        return
    inputs = [p for p in paths if not is_label(p)]
    by_name = tuple(n for n in signature.names if n in inputs)
    lacking = [n for n in signature.needed if n not in by_name]
    if by_name and not lacking:
        yield CallForm("kwargs", by_name)
        yield CallForm("kwargs", tuple(n for n in signature.names if n in paths))
    if by_name and lacking and all(n in paths for n in lacking):  # a forward that wants the label, too
        yield CallForm("kwargs", tuple(n for n in signature.names if n in paths))
    if signature.any_name and not lacking:
        yield CallForm("kwargs", tuple(inputs))
    yield from _of_nested_fields(signature, inputs)
    if len(signature.needed) <= 1:
        yield CallForm("dict", tuple(inputs))
    firsts = [next((p for p in inputs if p.startswith(f"{name}.")), "") for name in signature.needed]
    if firsts and all(firsts):  # {"image": (image, target), ...}
        yield CallForm("positional", tuple(firsts), ordered=True)
    for count in dict.fromkeys((len(signature.needed), len(signature.names), len(inputs))):
        if 0 < count <= len(inputs):
            yield CallForm("positional", tuple(inputs[:count]), ordered=count > 1)
    if len(signature.needed) <= 1:
        yield CallForm("list", tuple(inputs), ordered=True)
        yield CallForm("dict", tuple(paths))


def _of_nested_fields(signature: Signature, inputs: Sequence[str]) -> Iterator[CallForm]:
    """{"x": {"image": ..., "audio": ...}, ...} for a forward that takes x as it is."""
    taken = [path for path in inputs if path.partition(".")[0] in signature.names]
    whole = {path.partition(".")[0] for path in taken}
    if whole.issuperset(signature.needed) and any("." in path for path in taken):
        yield CallForm("kwargs", tuple(taken))


def _of_examples(ground: Ground, first: FirstBatch) -> Iterator[CallForm]:
    """Fields of examples as they are before they are collated."""
    if not first.loader:
        return
    form = CallForm("dict", (), edit="examples")
    try:
        there = look_at(ground.source_for(form), first.split, whole=True)
    except CollapsekitError:
        return
    inputs = tuple(path for path in there.paths if not is_label(path))
    yield replace(form, keys=inputs)
    yield replace(form, keys=inputs, call="kwargs")


def _of_tuples(signature: Signature, parts: int, paths: Sequence[str]) -> Iterator[CallForm]:
    """Tuples: what forward takes comes first, then the label; else the label before or between."""
    if any("." in path for path in paths):  # ((image, audio), label)
        yield from _of_nested_tuples(signature, parts, paths)
        return
    for count in dict.fromkeys((parts - 1, len(signature.needed), parts)):
        if not 0 < count <= parts:
            continue
        own = signature.names[:count] if count <= len(signature.names) else tuple(f"part{i}" for i in range(count))
        rest = ["label", *(f"part{i}" for i in range(count + 1, parts))][: parts - count]
        form = CallForm("kwargs", own, (*own, *rest))
        yield form if count <= len(signature.names) else replace(form, call="positional", ordered=True)
        yield replace(form, call="positional", ordered=True)
        if count > 1:
            yield replace(form, call="list", ordered=True)
    count = parts - 1
    if len(signature.needed) <= count <= len(signature.names):
        own = signature.names[:count]
        for place in range(count):  # the label before the others, or between them
            yield CallForm("kwargs", own, (*own[:place], "label", *own[place:]), ordered=True)


def _of_nested_tuples(signature: Signature, parts: int, paths: Sequence[str]) -> Iterator[CallForm]:
    """((image, audio), label) or ({...}, label), either way round: the fields one by one, as a list, or as one argument."""
    deep = next(int(path.partition(".")[0]) for path in paths if "." in path)
    label = 1 if deep == 0 else 0
    for name in ("inputs", *signature.names[:1]):
        names = tuple(name if i == deep else "label" if i == label else f"part{i}" for i in range(parts))
        inputs = tuple(p for p in (_renamed(path, names) for path in paths) if p.startswith(f"{name}."))
        if name == "inputs":
            yield CallForm("positional", inputs, names, ordered=True)
            yield CallForm("list", inputs, names, ordered=True)
        if name in signature.names and len(signature.needed) <= 1:
            yield CallForm("kwargs", inputs, names)


def _renamed(path: str, names: Sequence[str]) -> str:
    first, dot, rest = path.partition(".")
    return f"{names[int(first)]}{dot}{rest}"
