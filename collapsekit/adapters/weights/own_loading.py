"""A model's own load_state_dict: whether it does more than copy, and how it is asked, never leaving it half-loaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from collapsekit.adapters.build import own_attributes, preserve_rng_state
from collapsekit.adapters.live.state import State
from collapsekit.checkpoint.leftovers import Leftovers
from collapsekit.checkpoint.match import NameFit
from collapsekit.checkpoint.mmap import forget, is_mapped
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.errors import CollapsekitError
from collapsekit.io.safe_text import inline
from collapsekit.user_code.frames import kind_and_text
from collapsekit.user_code.process_state import user_code

_EXTRA = "_extra_state"
_TORCH_REFUSES = "Error(s) in loading state_dict"


def acts_on_numbers(model: nn.Module) -> bool:
    """Tell whether loading does more than copy where names and shapes fit: code that is not torch's own, or extra state."""
    if _overrides(model, "load_state_dict", nn.Module.load_state_dict):
        return True
    return any(
        not all(_of_torch(hook) for hook in _hooks(module))
        or not _of_torch(type(module)._load_from_state_dict)
        or type(module).set_extra_state is not nn.Module.set_extra_state
        for module in model.modules()
    )


def acts_on_names(model: nn.Module) -> bool:
    """Tell whether loading may take other names or shapes than the model's own: torch's hooks and layers included."""
    if acts_on_numbers(model):
        return True
    return any(
        any(True for _ in _hooks(module)) or type(module)._load_from_state_dict is not nn.Module._load_from_state_dict
        for module in model.modules()
    )


def _overrides(model: nn.Module, name: str, plain: object) -> bool:
    return name in vars(model) or getattr(type(model), name) is not plain


def _hooks(module: nn.Module) -> Iterator[Callable[..., Any]]:
    for hook in (*module._load_state_dict_pre_hooks.values(), *module._load_state_dict_post_hooks.values()):
        yield getattr(hook, "hook", hook)


def _of_torch(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__module__", None) or type(function).__module__
    return str(name).split(".")[0] == "torch"


@dataclass(frozen=True)
class LoadingError:
    """What a model's own loading says of a file."""

    text: str
    names_only: bool  # whether it is no more than names and shapes that do not fit


@dataclass(frozen=True)
class Attempt:
    """What came of one way to read a file's names."""

    left: tuple[str, ...] = ()
    error: LoadingError | None = None


@dataclass(frozen=True)
class ModuleLoading:
    """A model that is asked to load a file's tensors by its own ``load_state_dict``."""

    model: nn.Module
    checkpoint: Checkpoint
    leftovers: Leftovers
    ties: Mapping[str, list[str]]  # name -> names whose tensor shares its memory

    def attempt(self, fit: NameFit) -> Attempt:
        """Ask the model to load the tensors as ``fit`` names them; where it refuses, it gets its weights back.

        Names that it does not expect, and that are of something else, are left out; so are names that it misses and that
        have the same tensor as one that it has.
        """
        state, there = self._state(fit)
        seen = _Names(fit, self.leftovers, there, self.ties)
        try:
            with preserve_rng_state(), _restored_on_failure(self.model):
                self._load(state, seen)
                self._copy_aliases(state)
        except _RefusalError as e:
            return Attempt(error=e.error)
        finally:
            for tensor in self.checkpoint.tensors.values():
                forget(tensor)
        return Attempt(tuple(seen.left))

    def _load(self, state: OrderedDict[str, Any], seen: _Names) -> None:
        handle = self.model.register_load_state_dict_post_hook(seen.forgive)
        try:
            with user_code("the model's load_state_dict"):
                result = self.model.load_state_dict(state)
        except (CollapsekitError, MemoryError):
            raise
        except Exception as e:  # noqa: BLE001 - from the user's own code
            by_names = isinstance(e, RuntimeError) and str(e).startswith(_TORCH_REFUSES)
            raise _RefusalError(LoadingError(inline(kind_and_text(e), 400), by_names)) from None
        finally:
            handle.remove()
        # Of one that is not strict, or of the user's own.
        if getattr(result, "missing_keys", None) or getattr(result, "unexpected_keys", None):
            raise _RefusalError(LoadingError("names are missing or unexpected", names_only=True))

    def _state(self, fit: NameFit) -> tuple[OrderedDict[str, Any], dict[str, str]]:
        """The file's tensors under the model's names, with what it tells of modules; and the file's name of each."""
        tensors = self.checkpoint.tensors
        to_model = {there: name for name, there in fit.pairs.items()}
        there = {to_model.get(n, fit.here(n)): n for n in tensors}
        there |= fit.pairs  # a tied tensor has several names
        # What was copied out of a file is handed on in a copy, so that writing to it changes no other build.
        copies = {n: t.detach() if is_mapped(t) else t.clone() for n, t in tensors.items()}
        state = OrderedDict((name, copies[n]) for name, n in there.items())
        for name, value in self.model.state_dict().items():
            if name.endswith(_EXTRA) and not isinstance(value, Tensor):
                state.setdefault(name, value)  # a file's own is no tensor, and was not read
        paths = {fit.module_path(path): path for path, _ in self.model.named_modules()}
        versions = {fit.module_path(path): about for path, about in self.checkpoint.versions.items()}
        about = OrderedDict((paths.get(path, path), dict(value)) for path, value in versions.items())
        state._metadata = about  # type: ignore[attr-defined]
        return state, there

    def _copy_aliases(self, state: Mapping[str, Any]) -> None:
        """Copy what the model took over from the file as it is, without copying: it is the model's own from here on."""
        taken = {t.untyped_storage().data_ptr() for t in state.values() if isinstance(t, Tensor) and t.numel()}
        for module in self.model.modules():
            registries: list[dict[str, Any]] = [module._parameters, module._buffers, own_attributes(module)]
            for registry in registries:
                for value in registry.values():
                    if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in taken:
                        value.data = value.data.clone()


class _RefusalError(Exception):
    """Carries an error out of the block that restores the model."""

    def __init__(self, error: LoadingError) -> None:
        super().__init__()
        self.error = error


@contextmanager
def _restored_on_failure(model: nn.Module) -> Iterator[None]:
    """Give the model its weights and buffers back where the block raises."""
    before = State.of(model)
    names = {id(r): set(r) for m in model.modules() for r in (m._parameters, m._buffers)}
    try:
        yield
    except BaseException:
        for module in model.modules():
            for registry in (module._parameters, module._buffers):
                for name in set(registry) - names.get(id(registry), set(registry)):
                    del registry[name]
        for slot in before.slots:
            if slot.tensor.shape != slot.copy.shape or slot.tensor.dtype != slot.dtype:
                slot.tensor.data = slot.copy
            slot.put_back()
        raise


@dataclass
class _Names:
    """Hears at the end of loading what was missing and unexpected, and takes out what may be."""

    fit: NameFit
    leftovers: Leftovers
    there: Mapping[str, str]
    ties: Mapping[str, list[str]]
    left: list[str] = field(default_factory=list)

    def forgive(self, module: nn.Module, keys: Any) -> None:
        missing = set(keys.missing_keys)
        tied = {n for n in missing if any(other not in missing for other in self.ties.get(n, ()))}
        keys.missing_keys[:] = [n for n in keys.missing_keys if n not in tied]
        complete = not keys.missing_keys
        spare = [n for n in keys.unexpected_keys if n in self.there]
        gone = {n for n in spare if self.leftovers.can_go(self.there[n], self.fit, complete=complete)}
        keys.unexpected_keys[:] = [n for n in keys.unexpected_keys if n not in gone]
        self.left = [self.there[n] for n in spare if n in gone]
