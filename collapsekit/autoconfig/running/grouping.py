"""Which fields make a modality: masks and lengths go with what they are of, and parts of a sequence stand apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.autoconfig.running.fields import is_label
from collapsekit.autoconfig.running.runner import FieldRunner
from collapsekit.autoconfig.running.trace import Watched
from collapsekit.autoconfig.vocabulary import BESIDE, ENCODER, FIELD_SENSES, LENGTHS, words
from collapsekit.config.schema import ModalityConfig
from collapsekit.data.base import Batch, is_stored

_MOST_SEGMENTS = 6
_SAYS_NOTHING = frozenset(
    ("x", "input", "inputs", "data", "tensor", "feat", "feats", "feature", "features", "values", "value", "part", "in")
)
_MARKS = frozenset(("mask", "masks", "padding", "pad")) | LENGTHS


@dataclass(frozen=True)
class Grouped:
    """Fields by modality, the first of each what it is about; and fields that are the model's but no modality's."""

    modalities: dict[str, tuple[str, ...]]
    beside: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # given to the model, and move nothing in it
    same: tuple[str, ...] = ()  # the same in every row, so that nothing could be seen
    named: bool = False  # whether modalities have their names already


def group_fields(watched: Watched, runner: FieldRunner, batch: Batch, keys: Sequence[str]) -> Grouped:
    """Group what the model is given.

    Args:
        watched: what each field moves.
        runner: that was watched.
        batch: the rows, (n, ...) by key.
        keys: the fields.

    Returns:
        The modalities, by the name of their first field.
    """
    objects = runner.source.objects
    still = [k for k in keys if k not in watched.failed and not watched.moves[k]]
    live = [k for k in keys if k not in still]
    beside = [k for k in keys if not is_stored(objects, k, batch[k]) and _is_beside(k, batch[k])]
    mains = [k for k in live if k not in beside] or live
    found: dict[str, list[str]] = {k: [k] for k in mains}
    loose: list[str] = []
    for key in beside:
        if key in found:
            continue
        owner = _owner(key, mains, watched, batch)
        (found[owner] if owner is not None else loose).append(key)
    rest = [k for k in still if k not in beside]
    same = tuple(k for k in rest if k in watched.same)
    modalities = {k: tuple(sorted(v, key=lambda f: (f != k, list(keys).index(f)))) for k, v in found.items()}
    return Grouped(modalities, (*loose, *rest), tuple(k for k in rest if k not in same), same)


def find_segments(columns: Batch, key: str, others: Sequence[str]) -> tuple[str, tuple[int, ...]] | None:
    """Find the field that says whose each token of a sequence is.

    Args:
        columns: all fields that were read, (n, ...) by key.
        key: the sequence's.
        others: fields that the model is not given.

    Returns:
        Its name, and the numbers in it; None where there is none.
    """
    tokens = columns[key]
    for other in others:
        field = columns[other]
        if is_label(other) or field.is_floating_point() or tokens.ndim < 2 or field.shape != tokens.shape[:2]:
            continue
        values = field.unique().tolist()
        if 2 <= len(values) <= _MOST_SEGMENTS:
            return other, tuple(int(v) for v in values)
    return None


def name_modalities(groups: Mapping[str, Sequence[str]], encoders: Mapping[str, str | None]) -> dict[str, str]:
    """Find the shortest clear name of each modality.

    Args:
        groups: fields by modality, the first the main one.
        encoders: by modality, the path of its encoder.

    Returns:
        Names by modality, all different.
    """
    names: dict[str, str] = {}
    for m, fields in groups.items():
        own = _by_field(fields[0]) or _by_module(encoders.get(m)) or _plain(fields[0].rpartition(".")[2]) or "input"
        names[m] = own
    for name in {n for n in names.values() if list(names.values()).count(n) > 1}:
        for i, m in enumerate([k for k, n in names.items() if n == name]):
            longer = _plain("_".join(groups[m][0].split(".")[-2:]))
            names[m] = longer if longer and longer not in names.values() else f"{name}_{i + 1}"
    return names


def sections_of(groups: Mapping[str, Sequence[str]]) -> dict[str, ModalityConfig]:
    """Make modalities, each without an encoder, of groups of fields."""
    return {m: ModalityConfig(input=fields[0] if len(fields) == 1 else tuple(fields)) for m, fields in groups.items()}


def _is_beside(key: str, column: Tensor) -> bool:
    own = frozenset(words(key.rpartition(".")[2]))
    if column.dtype == torch.bool:
        return True
    return not own.isdisjoint(_MARKS if column.is_floating_point() else BESIDE)


def _owner(key: str, mains: Sequence[str], watched: Watched, batch: Batch) -> str | None:
    """The field that another one goes with: that it meets first, alone; else the one that it is named or shaped after."""
    for seen in watched.inner():
        moved = seen.entering | seen.leaving
        if key in moved and (met := [m for m in mains if m in moved]):
            if len(met) == 1:
                return met[0]
            break
    own = frozenset(words(key)) - BESIDE
    alike = [m for m in mains if own & frozenset(words(m))]
    fitting = [m for m in mains if _fits(batch[key], batch[m])]
    for candidates in ([m for m in alike if m in fitting], alike, fitting):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _fits(beside: Tensor, main: Tensor) -> bool:
    """Whether one field may say which places of another one count."""
    if beside.ndim == 1:
        return main.ndim > 2 and not beside.is_floating_point() and 0 <= int(beside.max()) <= main.shape[1]
    return beside.shape == main.shape[: beside.ndim]


def _by_field(key: str) -> str | None:
    last = key.rpartition(".")[2]
    if last in FIELD_SENSES:
        return FIELD_SENSES[last]
    own = [w for w in words(last) if not w.isdecimal()]
    if not own or all(w in _SAYS_NOTHING or len(w) == 1 for w in own):
        return None
    return _plain(last)


def _by_module(path: str | None) -> str | None:
    for part in reversed((path or "").removesuffix(":input").split(".")):
        own = [
            w for w in words(part) if w not in ENCODER and w not in ("encoders", "towers", "proj") and not w.isdecimal()
        ]
        if own and not all(len(w) == 1 for w in own):
            return _plain("_".join(own))
    return None


def _plain(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in text).strip("_")[:40]
