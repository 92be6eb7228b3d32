"""load_weights: a checkpoint's tensors into a model, whole or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from collapsekit.adapters.weights.averages import complete_averages
from collapsekit.adapters.weights.lent import LentCheckpoint
from collapsekit.adapters.weights.lora import MergedWeight, plan_merge
from collapsekit.adapters.weights.offloaded import find_offloaded
from collapsekit.adapters.weights.own_loading import ModuleLoading, acts_on_names, acts_on_numbers
from collapsekit.adapters.weights.pretrained import read_as_pretrained
from collapsekit.adapters.weights.quantised import PackedWeights, dequantise
from collapsekit.checkpoint.leftovers import Leftovers, drop_ignored
from collapsekit.checkpoint.match import NameFit, Shapes, fit_names, misfit, other_fits
from collapsekit.checkpoint.mmap import forget, is_mapped
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.checkpoint.sidecars.peft import LoraAdapter
from collapsekit.errors import ConfigError


@dataclass(frozen=True)
class WeightsTaken:
    """What of a checkpoint became a model's weights."""

    left_out: tuple[str, ...] = ()  # names in the file of what is no part of the model, or that the user ignores
    averaged: str | None = None  # where the averages (EMA) lay that were taken
    lacking: tuple[str, ...] = ()  # the model's names that have no average, and their plain weights
    merged: tuple[MergedWeight, ...] = ()  # what an adapter changed
    packed: PackedWeights | None = None  # what was packed into a few bits
    # Whether each weight is a copy of one tensor (of a base, where an adapter was merged).
    only_copied: bool = field(default=False, compare=False)
    # Of those the tensors that lie in the file, where they can be read again, by the model's names.
    in_file: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)


_OTHER_WAYS = 3  # in which a file's names are shown to a model that renames them itself


def load_weights(model: nn.Module, checkpoint: Checkpoint, ignore: Collection[str] = ()) -> WeightsTaken:
    """Put the checkpoint's tensors into the model, whole or not at all.

    Names are fitted across wrappers' marks first. Where plain copying is all that the model's own ``load_state_dict`` would
    do, they are copied, and there is one copy of the weights in memory: what was copied of a mapped file is let go of. Else
    the model's own loading decides, with its hooks, and the model has its own weights again where it refuses.

    Args:
        model: changed in place.
        checkpoint: of any model's weights.
        ignore: patterns (fnmatch) of names that the model does not need.

    Returns:
        What was taken, and which names in the file were left out: they are of something else, or match ``ignore``.

    Raises:
        ConfigError: listing names that do not fit, or with what the model's own loading says.
        RefusedError: where the file was written to meanwhile.
    """
    if isinstance(checkpoint, LentCheckpoint):
        checkpoint.lent.lend_to(model)
        return WeightsTaken()
    if waiting := find_offloaded(model):
        raise ConfigError(
            f"the weight {next(iter(waiting))!r} and {len(waiting) - 1} more are offloaded (accelerate), and a checkpoint "
            "cannot be put there: dispatch the model over devices that hold all of it, or load its weights yourself and "
            "give it as diagnose(model=...), without a checkpoint."
        )
    if checkpoint.adapter is not None:
        return _load_adapter(model, checkpoint, checkpoint.adapter, ignore)
    values = model.state_dict()
    shapes = {k: tuple(v.shape) for k, v in values.items() if isinstance(v, Tensor)}
    tensors = drop_ignored(checkpoint.tensors, ignore)
    ignored = [name for name in checkpoint.tensors if name not in tensors]
    tensors, packed = dequantise(tensors, shapes)
    lacking: tuple[str, ...] = ()
    if checkpoint.averaged is not None:
        beside = drop_ignored(checkpoint.beside, ignore)
        tensors, lacking = complete_averages(model, shapes, tensors, beside, checkpoint.averaged)
    ties = _ties(values, shapes)
    stated = {name: [*ties.get(name, []), kept] for name, kept in checkpoint.ties.items()}
    fit = _with_ties(fit_names(shapes, tensors), shapes, tensors, ties | stated)
    leftovers = Leftovers.of(shapes, tensors, unread_by(model))
    complete = not fit.missing and not fit.wrong
    left = [n for n in fit.spare if leftovers.can_go(n, fit, complete=complete)]
    only_copied = complete and len(left) == len(fit.spare) and not acts_on_numbers(model)
    if only_copied:
        _copy(values, fit.pairs, tensors)
    else:
        left = _by_itself(ModuleLoading(model, replace(checkpoint, tensors=tensors), leftovers, ties), shapes, fit)
    checkpoint.check_unchanged()
    in_file = {n: tensors[there] for n, there in fit.pairs.items() if only_copied and is_mapped(tensors[there])}
    return WeightsTaken((*ignored, *left), checkpoint.averaged, lacking, (), packed, only_copied, in_file)


def _load_adapter(
    model: nn.Module, checkpoint: Checkpoint, adapter: LoraAdapter, ignore: Collection[str]
) -> WeightsTaken:
    """Load the base, where one was given, and merge the adapter into it, once it is known to fit."""
    values = model.state_dict()
    ties = _ties(values, {k: tuple(v.shape) for k, v in values.items() if isinstance(v, Tensor)})
    plan = plan_merge(model, adapter, ties)
    base = load_weights(model, checkpoint.base, ignore) if checkpoint.base is not None else WeightsTaken()
    taken = replace(base, merged=plan.merge(model))
    for tensor in checkpoint.tensors.values():
        forget(tensor)
    checkpoint.check_unchanged()
    return taken


def _as_pretrained(loading: ModuleLoading, shapes: Shapes) -> list[str] | None:
    """Put in what the library of a model makes of the file. Returns the names that were left out; None where it does not
    fit either."""
    read = read_as_pretrained(loading.model, loading.checkpoint.tensors)
    if read is None or read.missing or {n: tuple(t.shape) for n, t in read.tensors.items()} != dict(shapes):
        return None
    plain = NameFit({}, {}, (), read.unexpected)
    known = [n for n in read.unexpected if n in loading.checkpoint.tensors]
    if len(known) < len(read.unexpected) or not all(loading.leftovers.can_go(n, plain, complete=True) for n in known):
        return None
    values = loading.model.state_dict()
    with torch.no_grad():
        for name, tensor in read.tensors.items():
            values[name].copy_(tensor)
    for tensor in loading.checkpoint.tensors.values():
        forget(tensor)
    return known


def unread_by(model: nn.Module) -> tuple[str, ...]:
    """List patterns of names that the classes of ``model`` say they do not read, as those of transformers do."""
    found: dict[str, None] = {}
    for module in model.modules():
        patterns = getattr(type(module), "_keys_to_ignore_on_load_unexpected", None)
        if isinstance(patterns, list | tuple | set):
            found |= dict.fromkeys(p for p in patterns if isinstance(p, str))
    return tuple(found)


def _copy(values: Mapping[str, Tensor], pairs: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, there in pairs.items():
            values[name].copy_(tensors[there])
            forget(tensors[there])


def _ties(values: Mapping[str, object], shapes: Shapes) -> dict[str, list[str]]:
    """Name -> names whose tensors lie in the same memory, its own among them."""
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name in shapes:
        tensor = values[name]
        if isinstance(tensor, Tensor) and tensor.numel() and not tensor.is_meta:
            place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
            groups[place].append(name)
    return {name: group for group in groups.values() if len(group) > 1 for name in group}


def _with_ties(fit: NameFit, shapes: Shapes, tensors: Mapping[str, Tensor], ties: Mapping[str, list[str]]) -> NameFit:
    """The fit with a pair for each missing name whose tensor has one under another name."""
    inner_of = {fit.inner(n): n for n in tensors}
    own = {fit.here(n): n for n in ties}  # as the file spells them
    pairs = dict(fit.pairs)
    for name in fit.missing:
        group = [*ties.get(name, []), *ties.get(own.get(name, ""), [])]
        there = [pairs[other] for other in group if other in pairs] + [inner_of.get(fit.inner(o), "") for o in group]
        fits = [n for n in there if n in tensors and tuple(tensors[n].shape) == shapes[name]]
        if fits:
            pairs[name] = fits[0]
    ordered = {name: pairs[name] for name in shapes if name in pairs}
    return replace(fit, pairs=ordered, missing=tuple(n for n in fit.missing if n not in pairs))


def _by_itself(loading: ModuleLoading, shapes: Shapes, fit: NameFit) -> list[str]:
    """Let the model's own loading decide. Returns the names that were left out."""
    refusal, tensors, leftovers = None, loading.checkpoint.tensors, loading.leftovers
    if acts_on_names(loading.model) or any(shapes[name] == () for name in fit.wrong):
        for way in (fit, *other_fits(shapes, tensors, fit, _OTHER_WAYS)):
            told = loading.attempt(way)
            if told.error is None:
                return list(told.left)
            refusal = refusal or told.error
    if refusal is not None and not refusal.names_only:
        raise ConfigError(
            f"the model's own loading refuses the checkpoint ({refusal.text}): check model.factory and model.kwargs, and "
            "that this is that model's checkpoint; the model has the weights that it had before."
        )
    if fit.missing:
        taken = _as_pretrained(loading, shapes)
        if taken is not None:
            return taken
    can_go = [n for n in fit.spare if leftovers.can_go(n, fit, complete=not fit.missing and not fit.wrong)]
    raise ConfigError(misfit(shapes, tensors, fit, set(can_go).__contains__))
