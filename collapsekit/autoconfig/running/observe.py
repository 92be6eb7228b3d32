"""Everything that one batch tells of a model: how it is called, its modalities, where they meet, and its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.live.preserve import preserve_model
from collapsekit.adapters.live.state import State
from collapsekit.adapters.live.unwrap import run_plainly
from collapsekit.autoconfig.running.calling import Called, find_call
from collapsekit.autoconfig.running.fields import (
    LABEL_ROWS,
    MOST_FIELDS,
    FirstBatch,
    is_label,
    look_at,
    read_rows,
    splits_in_order,
)
from collapsekit.autoconfig.running.grouping import (
    Grouped,
    find_segments,
    group_fields,
    name_modalities,
    sections_of,
)
from collapsekit.autoconfig.running.outcome import Outcome, find_outcome
from collapsekit.autoconfig.running.places import FoundPlaces, PlaceTrial, find_places
from collapsekit.autoconfig.running.runner import CallForm, Ground, fields_as_units, keys_of, numbers_of
from collapsekit.autoconfig.running.trace import Watched, watch
from collapsekit.autoconfig.spelling import scalar
from collapsekit.checkpoint.sidecars.described import Described
from collapsekit.config.schema import ModalityConfig
from collapsekit.data.base import Batch, is_stored
from collapsekit.errors import CollapsekitError

_ROWS = 7  # that are watched: no width that a model is likely to have
_FEW_CHANNELS = 8


@dataclass(frozen=True)
class Observed:
    """What one batch told. ``sections``: the modalities by name, with their encoders."""

    split: str
    form: CallForm
    sections: dict[str, ModalityConfig]
    fusion: str | None
    outcome: Outcome
    also: tuple[str, ...]
    shapes: dict[str, str]  # by field, what it holds
    tried: dict[str, bool]  # by modality with an encoder, whether an exchange there was held against the input's
    notes: tuple[str, ...]  # sentences that are worth knowing
    questions: tuple[str, ...]  # what is left to the user
    parting: tuple[str, ...] = ()  # lines that would make modalities of one field
    samples: int = 1  # seeds that each answer is averaged over


def observe(ground: Ground, beside: Described | None = None) -> Observed:
    """Run a model on one batch and find out what a config has to say; model, weights and random states stay as they were.

    Args:
        ground: the model with its weights, the data, and the config that names both.
        beside: what files beside the weights say, which counts for more.

    Returns:
        What was found.

    Raises:
        CollapsekitError: where the data cannot be read, or the model answers no call.
    """
    with preserve_rng_state(), run_plainly(), preserve_model(ground.model):
        seed_everything(ground.seed)
        state = State.of(ground.model)
        try:
            return _observed(ground, beside)
        finally:
            state.put_back()


def _observed(ground: Ground, beside: Described | None) -> Observed:
    first, columns, odd = _read(ground)
    split = first.split
    called = find_call(ground, first, [p for p in first.paths if p in columns], odd)
    columns, called = _renamed(ground, first, columns, called)
    watched = watch(called.runner, called.batch)
    grouped, units = _units(called, watched, columns, beside)
    called, grouped = _without_needless(ground, called, grouped, watched)
    trial, watched = _again(ground, split, called, units, watched)
    places = find_places(trial, watched)
    outcome = _as_described(_outcome(ground, called, watched, columns, grouped, split), columns, beside)
    if len(first.paths) > MOST_FIELDS:
        odd[f"{len(first.paths) - MOST_FIELDS} more"] = f"{MOST_FIELDS} are looked at"
    return _together(split, called, columns, odd, (grouped, units, watched), places, outcome)


def _read(ground: Ground) -> tuple[FirstBatch, Batch, dict[str, str]]:
    """The first rows of the first split in which no field is None throughout; without any, of the one a diagnosis reads.

    Raises what reading that one raises."""
    found: list[tuple[FirstBatch, Batch, dict[str, str]]] = []
    for split in splits_in_order(ground.source):
        try:
            first = look_at(ground.source, split)
            columns, odd = read_rows(ground.source, split, _chosen(first))
        except CollapsekitError:
            if not found:
                raise
            break
        found.append((first, columns, {**first.odd, **odd}))
        if not any(_is_absent(ground, key, column) for key, column in columns.items()):
            return found[-1]
    return found[0]


def _is_absent(ground: Ground, key: str, column: Tensor) -> bool:
    """Whether a field is None in all of these rows."""
    objects = ground.source.objects
    return is_stored(objects, key, column) and all(value is None for value in objects[key].take(column))


def _renamed(ground: Ground, first: FirstBatch, columns: Batch, called: Called) -> tuple[Batch, Called]:
    """Columns under the names that parts of tuples have now, or of examples where these are edited."""
    form = called.form
    if not form.names and form.edit == "batches":
        return columns, called
    source = ground.source_for(form)
    renamed = [_with_name(path, form.names) for path in first.paths]
    if form.edit == "examples":
        renamed = list(look_at(source, first.split, whole=True).paths)
    return read_rows(source, first.split, renamed)[0], called


def _with_name(path: str, names: tuple[str, ...]) -> str:
    place, dot, rest = path.partition(".")
    return f"{names[int(place)]}{dot}{rest}" if names and place.isdigit() and int(place) < len(names) else path


def _units(
    called: Called, watched: Watched, columns: Batch, beside: Described | None
) -> tuple[Grouped, dict[str, ModalityConfig]]:
    """The modalities: of the files beside the weights, where their fields are there, else of what moves what."""
    keys = called.form.keys
    grouped = group_fields(watched, called.runner, called.batch, keys)
    if beside is not None and beside.inputs and all(field.key in keys for field in beside.inputs):
        own = {f.name: ModalityConfig(input=f.key, slice=f.part) for f in beside.inputs}
        rest = tuple(k for k in keys if k not in {f.key for f in beside.inputs})
        return Grouped({f.name: (f.key,) for f in beside.inputs}, rest, named=True), own
    if len(grouped.modalities) == 1:
        ((key, fields),) = grouped.modalities.items()
        others = [k for k in columns if k not in keys]
        found = find_segments(columns, key, others) if len(fields) == 1 and key in columns else None
        if found is not None:
            field, values = found
            parts = {f"{key}_{v}": ModalityConfig(input=key, where=f"{field} == {v}") for v in values}
            return replace(grouped, modalities=dict.fromkeys(parts, (key,)), named=True), parts
    order = [k for fields in grouped.modalities.values() for k in fields]
    if called.form.call in ("positional", "list") and [*order, *grouped.beside] != list(keys):
        grouped = replace(
            grouped, modalities={k: (k,) for k in keys}, beside=()
        )  # else they would be given in another order
    return grouped, sections_of(grouped.modalities)


def _without_needless(ground: Ground, called: Called, grouped: Grouped, watched: Watched) -> tuple[Called, Grouped]:
    """The call without fields that are no modality's, where the model answers the same without them."""
    form = called.form
    for some in [grouped.beside, *((key,) for key in grouped.beside)]:
        fewer = replace(form, keys=tuple(k for k in form.keys if k not in some))
        if not some or fewer == form or form.edit == "examples" or not _answers_alike(ground, called, fewer, watched):
            continue
        form = fewer
    beside = tuple(k for k in grouped.beside if k in form.keys)
    return replace(called, form=form), replace(grouped, beside=beside)


def _answers_alike(ground: Ground, called: Called, form: CallForm, watched: Watched) -> bool:
    rows = len(next(iter(called.batch.values())))
    try:
        with torch.no_grad():
            seed_everything(0)
            answer = ground.runner(form, fields_as_units(form.keys)).answer(called.batch)
    except CollapsekitError:
        return False
    return torch.equal(numbers_of(answer, rows), numbers_of(watched.output, rows))


def _again(
    ground: Ground, split: str, called: Called, units: dict[str, ModalityConfig], watched: Watched
) -> tuple[PlaceTrial, Watched]:
    """The same rows watched by modality, where these are more, or less, than one field each."""
    if not units or (units == fields_as_units(list(units)) and set(units) == set(watched.moves)):
        return PlaceTrial(ground, called.form, units, called.batch), watched
    runner = ground.runner(called.form, units)
    batch = ground.with_rows(runner, split, _ROWS)
    return PlaceTrial(ground, called.form, units, batch), watch(runner, batch)


def _chosen(first: FirstBatch) -> list[str]:
    """The fields that are looked at, labels among them."""
    named = [path for path in first.paths if is_label(path)]
    return [*[path for path in first.paths if path not in named][: MOST_FIELDS - len(named)], *named][:MOST_FIELDS]


def _outcome(ground: Ground, called: Called, watched: Watched, columns: Batch, grouped: Grouped, split: str) -> Outcome:
    """Task and label, by labels of more rows than are watched."""
    keys = set(called.form.keys)
    rows = len(next(iter(called.batch.values())))
    free = [k for k in columns if k not in keys or k in grouped.unused]
    named = [k for k in columns if is_label(k) and k in keys and k not in free]
    inputs = [
        k for k in called.form.keys if k in columns and columns[k].ndim == 2 and not columns[k].is_floating_point()
    ]
    wanted = list(dict.fromkeys([*free, *named, *inputs]))
    source = ground.source_for(called.form)
    more = read_rows(source, split, wanted, LABEL_ROWS)[0] if wanted else {}
    labels = [k for k in (*free, *named) if k in more]
    # Names of patients and the like lie beside many labels: a field of texts is one only where it is called so.
    labels = [k for k in labels if is_label(k) or not is_stored(source.objects, k, more[k])] or labels
    return find_outcome(watched.output, rows, more, labels, [k for k in inputs if k in more])


def _as_described(outcome: Outcome, columns: Batch, beside: Described | None) -> Outcome:
    """The outcome with what files beside the weights say of it."""
    if beside is None:
        return outcome
    label = beside.label if beside.label in columns else outcome.label
    if beside.task is None:
        return replace(outcome, label=label)
    return replace(
        outcome, task=beside.task, label=label, others=(), seen=f"as the files beside the weights say ({beside.maker})"
    )


def _together(
    split: str,
    called: Called,
    columns: Batch,
    odd: Mapping[str, str],
    parts: tuple[Grouped, dict[str, ModalityConfig], Watched],
    places: FoundPlaces,
    outcome: Outcome,
) -> Observed:
    grouped, units, watched = parts
    names = {m: m for m in units} if grouped.named else name_modalities(grouped.modalities, places.encoders)
    sections = {}
    for m, section in units.items():
        plain = {"encoder": places.encoders.get(m)}
        if section.input == names[m]:
            plain["input"] = None
        sections[names[m]] = section.model_copy(update=plain)
    taken = {k for m, section in units.items() for k in keys_of(m, section)}
    also = tuple(k for k in called.form.keys if k not in taken)
    shapes = {k: _holds(called, columns, k) for k in columns}
    return Observed(
        split,
        called.form,
        sections,
        places.fusion,
        outcome,
        also,
        shapes,
        {names[m]: held for m, held in places.tried.items()},
        (*_notes(called, odd, grouped, watched, names), *_of_answers(outcome)),
        tuple(_questions(sections, columns, outcome, called)),
        _parts_of(sections, columns),
    )


def _holds(called: Called, columns: Batch, key: str) -> str:
    column = columns[key]
    store = called.runner.source.objects.get(key)
    if store is not None and column.ndim == 1 and column.dtype == torch.int64:
        return "values of several sizes" if store.form == "padded" else "a list of values"
    kind = str(column.dtype).removeprefix("torch.")
    return f"({', '.join(map(str, column.shape[1:]))}) {kind}" if column.ndim > 1 else f"one {kind}"


def _notes(
    called: Called, odd: Mapping[str, str], grouped: Grouped, watched: Watched, names: Mapping[str, str]
) -> list[str]:
    notes = [f"Fields left out: {key}: {why}" for key, why in odd.items() if called.form.edit == "batches"]
    if called.failed:
        notes.append(f"Calls that failed before this one: {'; '.join(called.failed)}.")
    if called.form.names and not called.form.ordered and len(called.form.keys) > 1:
        notes.append(
            "The parts of your tuples have no names: they are called as forward calls them, in its order, "
            f"{', '.join(called.form.keys)}: check that it is your data's."
        )
    if called.form.ordered:
        notes.append(f"Fields were given by their order, {', '.join(called.form.keys)}: check that it is the model's.")
    if grouped.unused:
        notes.append(f"Unused by the model: {', '.join(grouped.unused)} moved nothing in it.")
    if grouped.same:
        notes.append(f"The same in all rows, so nothing could be seen: {', '.join(grouped.same)}.")
    quiet = [names[m] for m in watched.moves if m in names and watched.moves[m] and m not in watched.answers]
    if quiet:
        notes.append(f"The answer did not move with {', '.join(quiet)}, though something inside did.")
    for m, why in watched.failed.items():
        if m in names:
            notes.append(f"The model failed where {names[m]} was another example's: {why}")
    return notes


def _of_answers(outcome: Outcome) -> list[str]:
    return [
        f"{key} holds the answer's tokens, as with teacher forcing: make a modality of the prompt alone, else exchanging it "
        "takes the answer, too."
        for key in outcome.inside
    ]


def _questions(sections: Mapping[str, ModalityConfig], columns: Batch, outcome: Outcome, called: Called) -> list[str]:
    found = []
    if len(sections) == 1:
        key = keys_of(*next(iter(sections.items())))[0]
        found.append(
            f"The model reads one field, {key}, and a diagnosis needs two modalities: part it, such as by the lines under "
            "`modalities`, or part it in the data."
        )
    if not sections:
        found.append("Which fields are modalities? None of those that the model is given moved anything in it.")
    if outcome.task is None:
        found.append(f"Which task is it? {outcome.seen[:1].upper()}{outcome.seen[1:]}.")
    if outcome.label is None and outcome.task != "retrieval":
        found.append(
            f"Which field is the label? Left are {', '.join(k for k in columns if k not in called.form.keys) or 'none'}."
        )
    if outcome.others:
        found.append(f"Label: {outcome.label} was taken; it may be {' or '.join(outcome.others)} as well.")
    return found


def _parts_of(sections: Mapping[str, ModalityConfig], columns: Batch) -> tuple[str, ...]:
    if len(sections) != 1:
        return ()
    ((name, section),) = sections.items()
    key = keys_of(name, section)[0]
    return _parting(name, key, columns.get(key))


def _parting(name: str, key: str, column: Tensor | None) -> tuple[str, ...]:
    """How one field may be parted into modalities: lines of a config."""
    if column is None or column.ndim < 2:
        return ()
    count = column.shape[1]
    if not column.is_floating_point() and column.ndim == 2:
        pairs = [(f"{name}_{i}", f'where: "segment == {i}"') for i in range(2)]
    elif column.ndim > 2 and count <= _FEW_CHANNELS:
        pairs = [(f"{name}_{i}", f'slice: "[{i}]"') for i in range(count)]
    elif column.ndim > 2 and column.shape[-1] <= _FEW_CHANNELS:
        pairs = [(f"{name}_{i}", f'slice: "[..., {i}]"') for i in range(column.shape[-1])]
    else:
        half = max(1, count // 2)
        pairs = [(f"{name}_0", f'slice: "[:{half}]"'), (f"{name}_1", f'slice: "[{half}:]"')]
    return tuple(f"{scalar(part)}: {{input: {scalar(key)}, {which}}}" for part, which in pairs)
