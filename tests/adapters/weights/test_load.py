"""load_weights: what the model's own load_state_dict takes is taken, anything else is refused and changes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from collapsekit.adapters.weights.load import WeightsTaken, load_weights
from collapsekit.adapters.weights.own_loading import acts_on_names, acts_on_numbers
from collapsekit.checkpoint.read import Checkpoint, read_checkpoint
from collapsekit.errors import ConfigError
from tests.hostile.forks import FORKS, fork_readers


@pytest.fixture(scope="module", autouse=True)
def _forked_readers() -> Iterator[None]:
    """Starting a reader takes longer than what it reads here."""
    with fork_readers():
        yield
    FORKS.end()


def saved(state: Any, path: Path) -> Checkpoint:
    torch.save(state, path / "w.pt")
    return read_checkpoint(path / "w.pt")


def values(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def randomised(model: nn.Module, seed: int = 3) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=g) + 0.5)
    return model


class Renames(nn.Module):
    """Reads files in which its layer had another name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self._register_load_state_dict_pre_hook(self._old_names)

    def _old_names(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in ("weight", "bias"):
            if f"{prefix}old.{name}" in state:
                state[f"{prefix}layer.{name}"] = state.pop(f"{prefix}old.{name}")


class Versioned(nn.Module):
    """Halves what files of its first version hold."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[f"{prefix}gain"] = state[f"{prefix}gain"] / 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Grows(nn.Module):
    """Takes a buffer of any length, as it lies in the file, and writes into what it is handed."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(length))
        self.layer = nn.Linear(2, 2)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.bank = state[f"{prefix}bank"].mul_(2)
        super()._load_from_state_dict(state, prefix, *rest)


class Extra(nn.Module):
    """Keeps a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = torch.zeros(3)

    def get_extra_state(self) -> Tensor:
        return self.scale.clone()

    def set_extra_state(self, state: Tensor) -> None:
        self.scale = state.clone()


class Notes(Extra):
    """Its extra state is no tensor."""

    def get_extra_state(self) -> Any:
        return {"scale": 2.0}

    def set_extra_state(self, state: Any) -> None:
        self.notes = state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


class TakesAll(nn.Module):
    """Renames in load_state_dict itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return super().load_state_dict({k.replace("was.", "layer."): v for k, v in state_dict.items()}, *args, **kwargs)


class Raises(nn.Module):
    """Loads one layer, and then cannot go on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second._register_load_state_dict_pre_hook(self._stop)

    def _stop(self, *_: Any) -> None:
        raise KeyError("a file of version 7")


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))


def new_weight_norm() -> nn.Module:
    return nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))


def without(state: dict[str, Any], word: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if word not in k}


def renamed(state: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {k.replace(old, new): v for k, v in state.items()}


# Model, and what is saved of one with other numbers; torch's own strict loading takes each.
TAKEN: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]] = {
    "plain": (lambda: nn.Linear(3, 4), lambda m: m.state_dict()),
    "renamed by a hook": (Renames, lambda m: renamed(m.state_dict(), "layer.", "old.")),
    "in its own names": (Renames, lambda m: m.state_dict()),
    "of its version": (Versioned, lambda m: m.state_dict()),
    "of a version before": (Versioned, lambda m: dict(m.state_dict())),
    "version of a part": (lambda: nn.Sequential(nn.Linear(2, 2), Versioned()), lambda m: m.state_dict()),
    "a buffer of another length": (lambda: Grows(4), lambda _: randomised(Grows(7)).state_dict()),
    "extra state": (Extra, lambda m: m.state_dict() | {"_extra_state": torch.arange(3.0)}),
    "extra state that is no tensor": (Notes, lambda m: m.state_dict()),
    "weight norm of torch < 2.1": (new_weight_norm, lambda _: randomised(old_weight_norm()).state_dict()),
    "weight norm as it is": (new_weight_norm, lambda m: m.state_dict()),
    "old weight norm in an old module": (old_weight_norm, lambda m: m.state_dict()),
    "BatchNorm of torch < 0.4.1": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
        lambda m: without(m.state_dict(), "num_batches_tracked"),
    ),
    "a scalar of torch 0.3": (
        Scaled := type(
            "Scaled",
            (nn.Module,),
            {
                "__init__": lambda self: (
                    nn.Module.__init__(self),
                    setattr(self, "t", nn.Parameter(torch.tensor(1.0))),
                )[0]
            },
        ),
        lambda _: {"t": torch.tensor([2.5])},
    ),
    "an override of load_state_dict": (TakesAll, lambda m: renamed(m.state_dict(), "layer.", "was.")),
    "tied weights": (Tied, lambda m: m.state_dict()),
    "doubles": (lambda: nn.Linear(3, 4), lambda m: {k: v.double() for k, v in m.state_dict().items()}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_torch_takes_is_taken_alike(tmp_path: Path, name: str) -> None:
    make, keep = TAKEN[name]
    state = keep(randomised(make()))
    theirs, ours = randomised(make(), 5), randomised(make(), 6)
    checkpoint = saved(state, tmp_path)
    untouched = {k: v.clone() for k, v in checkpoint.tensors.items()}
    theirs.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=False))
    assert load_weights(ours, checkpoint) == WeightsTaken()
    assert same(values(ours), values(theirs))
    assert same(checkpoint.tensors, untouched)  # for the next build
    again = randomised(make(), 7)
    load_weights(again, checkpoint)
    assert same(values(again), values(theirs))


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod.", "net."])
@pytest.mark.parametrize("name", [n for n in TAKEN if n not in ("extra state that is no tensor",)])
def test_so_it_is_under_a_wrapper_s_name(tmp_path: Path, name: str, prefix: str) -> None:
    make, keep = TAKEN[name]
    state = keep(randomised(make()))
    wrapped = type(state)((prefix + k, v) for k, v in state.items())
    if hasattr(state, "_metadata"):
        kind = type(state._metadata)
        wrapped._metadata = kind(((prefix + k).rstrip("."), v) for k, v in state._metadata.items())
    theirs, ours = randomised(make(), 5), randomised(make(), 6)
    checkpoint = saved(wrapped, tmp_path)
    theirs.load_state_dict(state)
    load_weights(ours, checkpoint)
    assert same(values(ours), values(theirs))


def test_what_a_model_takes_over_is_its_own(tmp_path: Path) -> None:
    """Training it changes neither the file's tensors nor another build."""
    checkpoint = saved(randomised(Grows(4)).state_dict(), tmp_path)
    first, second = Grows(4), Grows(4)
    load_weights(first, checkpoint)
    load_weights(second, checkpoint)
    kept = values(second)
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.zero_()
    assert same(values(second), kept)
    assert float(kept["bank"].min()) >= 1.0  # twice what lies in the file, once


REFUSED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any], str]] = {
    "a hook that raises": (Raises, lambda m: m.state_dict(), r"own loading refuses .*KeyError: 'a file of version 7'"),
    "missing": (
        Renames,
        lambda m: without(m.state_dict(), "bias"),
        r"1 missing from the checkpoint: 'layer\.bias' \(4,\)",
    ),
    "unexpected": (Renames, lambda m: m.state_dict() | {"aux.w": torch.ones(2)}, r"1 unexpected .*'aux\.w' \(2,\)"),
    "of another shape": (Renames, lambda m: m.state_dict() | {"layer.bias": torch.ones(9)}, r"'layer\.bias' is \(9,\)"),
    "a running mean": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
        lambda m: without(m.state_dict(), "running_mean"),
        "running_mean",
    ),
    "a weight of a tied pair's kind": (Tied, lambda m: {"other.weight": m.embed.weight}, "missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_is_refused_and_changes_nothing(tmp_path: Path, name: str) -> None:
    make, keep, words = REFUSED[name]
    state = keep(randomised(make()))
    model = randomised(make(), 5)
    before, places = values(model), {k: v.data_ptr() for k, v in model.state_dict().items()}
    checkpoint = saved(state, tmp_path)
    with pytest.raises(ConfigError, match=words) as e:
        load_weights(model, checkpoint)
    assert "\n" not in str(e.value)
    assert same(values(model), before)
    assert {k: v.data_ptr() for k, v in model.state_dict().items()} == places
    with pytest.raises((RuntimeError, KeyError)):
        make().load_state_dict(state)


def test_a_buffer_that_was_put_in_before_the_failure_is_taken_out(tmp_path: Path) -> None:
    class Adds(Raises):
        def _load_from_state_dict(self, *args: Any) -> None:
            self.register_buffer("new", torch.ones(2))
            self.first.weight.data = torch.zeros(9, 9)
            super()._load_from_state_dict(*args)

    model = randomised(Adds())
    before = values(model)
    with pytest.raises(ConfigError, match="own loading refuses"):
        load_weights(model, saved(randomised(Raises()).state_dict(), tmp_path))
    assert same(values(model), before)


def test_a_hook_draws_no_number_that_others_see(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model._register_load_state_dict_pre_hook(lambda *_: torch.rand(1))
    checkpoint = saved(model.state_dict(), tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_weights(model, checkpoint)
    assert torch.equal(torch.rand(3), expected)


# --- tied weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_one_name_of_a_tied_tensor_is_enough(tmp_path: Path, name: str) -> None:
    source, model = randomised(Tied()), randomised(Tied(), 5)
    load_weights(model, saved({f"module.{name}": source.embed.weight.detach()}, tmp_path))
    assert torch.equal(model.embed.weight, source.embed.weight)
    assert model.head.weight is model.embed.weight


def test_a_tie_beside_a_hook_that_renames(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.rest = Tied(), Renames()

    source, model = randomised(Both()), randomised(Both(), 5)
    state = renamed(without(source.state_dict(), "head"), "layer.", "old.")
    load_weights(model, saved(state, tmp_path))
    assert same(values(model), values(source))
    model = randomised(Both(), 5)
    load_weights(model, saved({f"module.{k}": v for k, v in state.items()}, tmp_path))
    assert same(values(model), values(source))


def test_what_save_model_left_out_is_found_by_what_the_file_says(tmp_path: Path) -> None:
    """Also by a model that ties nothing."""

    class Loose(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 5, bias=False)

    source = randomised(Tied())
    safetensors.torch.save_model(source, str(tmp_path / "w.safetensors"))
    checkpoint = read_checkpoint(tmp_path / "w.safetensors")
    assert len(checkpoint.tensors) == 1
    for model in (randomised(Tied(), 5), randomised(Loose(), 6)):
        load_weights(model, checkpoint)
        assert torch.equal(model.embed.weight, source.embed.weight)
        assert torch.equal(model.head.weight, source.head.weight)
    wide = randomised(Loose(), 6)
    wide.head = nn.Linear(4, 5, bias=False)
    with pytest.raises(ConfigError, match=r"missing from the checkpoint: 'head\.weight'"):
        load_weights(wide, checkpoint)


# --- plain copying --------------------------------------------------------------------------------------------


def test_plain_models_are_copied_into() -> None:
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LSTM(4, 4), nn.MultiheadAttention(4, 2))
    assert not acts_on_numbers(plain)
    assert acts_on_names(plain)  # BatchNorm
    assert not acts_on_numbers(new_weight_norm())
    assert acts_on_names(new_weight_norm())
    assert not acts_on_names(nn.Linear(2, 2))
    assert all(map(acts_on_numbers, (Renames(), Versioned(), Extra(), TakesAll(), nn.Sequential(Grows(2)))))
    hooked = nn.Linear(2, 2)
    hooked.register_load_state_dict_post_hook(lambda module, keys: None)
    assert acts_on_numbers(hooked)
    given = nn.Linear(2, 2)
    given.load_state_dict = lambda state: None  # type: ignore[assignment,method-assign,misc]
    assert acts_on_numbers(given)


def test_plain_copying_asks_no_load_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And holds no second copy of the weights."""
    source, model = randomised(nn.Linear(3, 4)), nn.Linear(3, 4)
    monkeypatch.setattr(nn.Module, "load_state_dict", None)
    load_weights(model, saved(source.state_dict(), tmp_path))
    assert same(values(model), values(source))


def test_tensors_in_memory_are_handed_on_in_copies() -> None:
    state = {k: v.clone() for k, v in randomised(Grows(4)).state_dict().items()}
    untouched = {k: v.clone() for k, v in state.items()}
    model = Grows(4)
    load_weights(model, Checkpoint(Path("live"), "", "live model", state, None, ""))
    assert same(state, untouched)
    assert torch.equal(model.bank, 2 * untouched["bank"])


def test_a_tie_whose_names_are_all_renamed(tmp_path: Path) -> None:
    class Old(Tied):
        def __init__(self) -> None:
            super().__init__()
            self._register_load_state_dict_pre_hook(self._old_names)

        def _old_names(self, state: dict[str, Any], *_: Any) -> None:
            state["embed.weight"] = state.pop("emb.w")

    source, model = randomised(Tied()), randomised(Old(), 5)
    load_weights(model, saved({"emb.w": source.embed.weight.detach()}, tmp_path))
    assert torch.equal(model.head.weight, source.embed.weight)


def test_what_a_file_states_of_ties_holds_beside_hooks_too(tmp_path: Path) -> None:
    class Loose(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 5, bias=False)
            self._register_load_state_dict_pre_hook(lambda *_: None)

    source = randomised(Tied())
    safetensors.torch.save_model(source, str(tmp_path / "w.safetensors"))
    model = randomised(Loose(), 6)
    load_weights(model, read_checkpoint(tmp_path / "w.safetensors"))
    assert torch.equal(model.embed.weight, source.embed.weight)
    assert torch.equal(model.head.weight, source.head.weight)


def test_a_load_state_dict_that_is_not_strict_leaves_nothing_as_it_was_drawn(tmp_path: Path) -> None:
    class Lenient(Tied):
        def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            return super().load_state_dict(state_dict, strict=False)

    model = randomised(Lenient(), 5)
    before = values(model)
    with pytest.raises(ConfigError, match="missing"):
        load_weights(model, saved({"other": torch.ones(2)}, tmp_path))
    assert same(values(model), before)
