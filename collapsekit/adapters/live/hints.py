"""The line to write in the config where the data and what the model's forward takes do not meet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import need_factory, preserve_rng_state
from collapsekit.adapters.live.fields import InputFields
from collapsekit.config.imports import import_callable, importable_from
from collapsekit.config.schema import Config, ModalityConfig
from collapsekit.data.base import Batch, MissingFieldError, is_stored
from collapsekit.errors import DataError
from collapsekit.io.safe_text import quote
from collapsekit.user_code.process_state import user_code

if TYPE_CHECKING:
    from collapsekit.adapters.base import Adapter

_MOST_MOVED = 3  # inputs whose order is tried out: six forwards
_CHECK = "check `call`, the modalities' `input` and `scale`, the order of `batch`, and `data.also`"
_NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


class Forward:
    """What a model's forward takes, read off its signature."""

    def __init__(self, model: nn.Module | None) -> None:
        try:
            parameters = [] if model is None else list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):  # written in C, say
            parameters = []
        named = [p for p in parameters if p.kind in _NAMED]
        self.names = tuple(p.name for p in named)
        self.needed = tuple(p.name for p in named if p.default is p.empty)
        self.any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.spelt = ", ".join(_spell(p) for p in parameters)

    @property
    def clause(self) -> str:
        """What it takes, as a clause of a message."""
        return (
            f"the model's forward takes ({self.spelt})" if self.spelt else "what the model's forward takes is not known"
        )


def _spell(parameter: inspect.Parameter) -> str:
    mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")  # type: ignore[call-overload]
    return f"{mark}{parameter.name}{'' if parameter.default is parameter.empty else '=...'}"


def explain_missing(config: Config, model: nn.Module | None, error: MissingFieldError) -> DataError:
    """Say what to write where examples lack a field that the config names.

    Args:
        config: which names it.
        model: the model; None: the config's factory would build it.
        error: what was looked for, and what is there.

    Returns:
        The error to raise in its place.
    """
    forward = Forward(_built_without_numbers(config) if model is None else model)
    return DataError(f"{error.sentence}; {forward.clause}; {_line_for(config, error, forward)}.")


def _built_without_numbers(config: Config) -> nn.Module | None:
    """The model as the factory builds it where tensors have no storage, for its signature; None where that fails."""
    try:
        spec = need_factory(config)
        factory = import_callable(spec, config.base, "model.factory")  # what its module makes on import has numbers
        with preserve_rng_state(), user_code(f"model.factory {spec!r}"), importable_from(config.base):
            with torch.device("meta"):
                model = factory(**config.model.kwargs)
        return model if isinstance(model, nn.Module) else None
    except Exception:  # noqa: BLE001 - a factory that reads weights, say: then nothing is said of its model
        return None


def _line_for(config: Config, error: MissingFieldError, forward: Forward) -> str:
    key, fields = error.key, InputFields(config)
    wanted = _in_order_of(forward, fields.model_keys)
    left = [name for name in error.there if name not in {*wanted, config.data.label}]
    if error.unnamed:
        return _line_of_batch(config, error, wanted)
    if config.batch and len(left) == 1 and key in {*wanted, config.data.label}:
        return f"name its parts so: `batch: [{', '.join(key if name == left[0] else name for name in config.batch)}]`"
    if key == config.data.label:
        return f"write the label's name: `data: {{label: {_choice(left)}}}`"
    owner = next((m for m in config.modalities if key in fields.of(m)), None)
    if owner is not None:
        return _line_of_modality(config, owner, left, forward)
    if key in config.data.also:
        return f"take {quote(key)} out of `data: {{also: [...]}}`, or write there what the data call it"
    return f"write one of these in the place of {quote(key)} in {config.origin}"


def _line_of_batch(config: Config, error: MissingFieldError, wanted: Sequence[str]) -> str:
    """Names for the parts of a tuple: those there are, then what is wanted and not among them, the label last."""
    label = config.data.label
    named = [name for name in config.batch if name in error.there]
    rest = [name for name in dict.fromkeys([*wanted, label]) if name not in named]
    count = len(error.there)
    if len(named) + len(rest) > count:
        return (
            f"its parts are {count}, and the config names {', '.join([*named, *rest])}: let the data give all of them"
        )
    names = [*named, *rest, *(f"part{i}" for i in range(len(named) + len(rest), count))]
    return f"name its parts, in their order: `batch: [{', '.join(names)}]`"


def _line_of_modality(config: Config, modality: str, left: Sequence[str], forward: Forward) -> str:
    section = config.modalities[modality]
    name = _choice(left)
    line = f"write under `modalities`: `{modality}: {_section(section, name)}`"
    by_name = config.call == "kwargs" and not forward.any_name
    if by_name and name not in forward.names and modality in forward.names:
        order = _in_order_of(forward, list(config.modalities))
        return f"{line}, and `call: positional` with `modalities` in the order {', '.join(order)}"
    return line


def _section(section: ModalityConfig, name: str) -> str:
    encoder = "" if section.encoder is None else f"encoder: {section.encoder}, "
    return f"{{{encoder}input: {name}}}"


def _choice(left: Sequence[str]) -> str:
    """The only field that nothing else is; else a word for the user's choice among them."""
    return left[0] if len(left) == 1 else "NAME"


def _in_order_of(forward: Forward, keys: Sequence[str]) -> list[str]:
    """Keys as forward orders them, where it has them all by name."""
    return sorted(keys, key=forward.names.index) if set(keys) <= set(forward.names) else list(keys)


def explain_call(adapter: Adapter, inputs: Batch, again: Callable[[Batch], Any]) -> str:
    """Say what to write where a model's forward failed.

    Args:
        adapter: the model and its config.
        inputs: what it was given, (n, ...) by key.
        again: runs the forward on other inputs of these names.

    Returns:
        A clause: what forward takes, and the line that would call it so, where there is one.
    """
    forward = Forward(adapter.model)
    keys = [key for key in inputs if key in adapter.fields.model_keys]
    line = _line_of_call(adapter.config, keys, forward) or _line_of_order(adapter, keys, inputs, again)
    pictures = [key for key in keys if _is_picture(adapter, key, inputs[key])]
    if pictures:
        line = (
            f"{', '.join(pictures)} came as images, which the model is given as they are: let your Dataset make tensors of "
            "them, as by `torch.from_numpy(numpy.array(image)).permute(2, 0, 1) / 255`"
        )
    return f"{forward.clause}; {line or _CHECK}"


def _is_picture(adapter: Adapter, key: str, value: Tensor) -> bool:
    """Whether a field holds images of PIL or of its like: arrays that are no tensors."""
    objects = adapter.source.objects
    return is_stored(objects, key, value) and hasattr(objects[key].take(value[:1].cpu())[0], "__array_interface__")


def _line_of_call(config: Config, keys: Sequence[str], forward: Forward) -> str | None:
    """The way of calling that fits what forward takes; None where the present one does."""
    firsts = {key.partition(".")[0] for key in keys}  # `x.image` is a part of an argument x
    lacking = [name for name in forward.needed if name not in firsts]
    unknown = [] if forward.any_name else [key for key in keys if key.partition(".")[0] not in forward.names]
    if config.call == "kwargs":
        if lacking and not unknown:
            return f"it was not given {', '.join(lacking)}: write `data: {{also: [{', '.join(lacking)}]}}`"
        if unknown and len(forward.needed) == 1 < len(keys):
            return "to give it all of them in one mapping, write `call: dict`, in one list `call: list`"
        if unknown and len(forward.needed) <= len(keys) and (len(keys) <= len(forward.names) or forward.any_number):
            order = ", ".join(keys)
            return (
                f"it does not know {', '.join(unknown)}: to give them by their order, {order}, write `call: positional`"
            )
        return (
            f"it does not know {', '.join(unknown)}: take these out of `modalities` and `data.also`"
            if unknown
            else None
        )
    if config.call in ("dict", "list") and len(forward.needed) > 1:
        return f"write `call: {'positional' if lacking or unknown else 'kwargs'}`"
    return None


def _line_of_order(adapter: Adapter, keys: Sequence[str], inputs: Batch, again: Callable[[Batch], Any]) -> str | None:
    """The order in which the model answers, of parts of tuples or of inputs that are given by their order."""
    config = adapter.config
    by_place = config.call in ("positional", "list")
    if not 1 < len(keys) <= _MOST_MOVED or not (by_place or set(keys) <= set(config.batch)):
        return None
    for moved in list(permutations(keys))[1:]:
        given = dict(zip(keys, moved, strict=True))  # by name whose values it has
        try:
            with torch.no_grad():
                again({**inputs, **{key: inputs[other] for key, other in given.items()}})
        except Exception:  # noqa: BLE001 - a user's forward raises anything where its inputs are others
            continue
        if by_place and not config.batch:
            return f"it answers in another order: list the modalities so that their inputs are {', '.join(moved)}"
        name_of = {other: key for key, other in given.items()}
        return f"it answers in another order: `batch: [{', '.join(name_of.get(name, name) for name in config.batch)}]`"
    return None
