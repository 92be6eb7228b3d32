"""Averages (EMA) in a file: which are taken, what completes them, and what is refused."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters.weights.load import load_weights
from collapsekit.checkpoint.read import Checkpoint, read_checkpoint
from collapsekit.errors import ConfigError
from tests.hostile.forks import FORKS, fork_readers

State = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def _forked_readers() -> Iterator[None]:
    """Starting a reader takes longer than what it reads here."""
    with fork_readers():
        yield
    FORKS.end()


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def filled(value: float) -> nn.Module:
    model = make()
    with torch.no_grad():
        for i, tensor in enumerate(model.state_dict().values()):
            tensor.fill_(value + i)
    return model


def state(value: float) -> dict[str, Tensor]:
    return dict(filled(value).state_dict())


def parameters(value: float) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in filled(value).named_parameters()}


def under(prefix: str, tensors: State) -> State:
    return {prefix + name: t for name, t in tensors.items()}


def lit_ema(value: float) -> State:
    flat = {n.replace(".", ""): p for n, p in parameters(value).items()}
    return under("model_ema.", flat | {"decay": torch.tensor(0.99), "num_updates": torch.tensor(7)})


def shadows(value: float) -> list[Tensor]:
    return list(parameters(value).values())


# What is saved, and where the averages are then told to lie. Plain weights are 1, 2, ..., averages 51, 52, ...
WHOLE: dict[str, tuple[Callable[[], Any], str]] = {
    **{
        k: (lambda k=k: {"model": state(1), k: state(51)}, k)
        for k in ("ema", "model_ema", "ema_state_dict", "module_ema")
    },
    "timm": (lambda: {"state_dict": state(1), "state_dict_ema": state(51), "epoch": 3}, "state_dict_ema"),
    "within a dict": (lambda: {"model": state(1), "ema": {"module": state(51), "decay": 0.9}}, "ema.module"),
    "wrapped": (lambda: {"model": under("module.", state(1)), "ema": under("module.", state(51))}, "ema"),
    "alone": (lambda: {"ema": state(51), "epoch": 3}, "ema"),
    "a submodule beside it": (
        lambda: {"state_dict": under("model.", state(1)) | under("ema_model.", state(51))},
        "ema_model",
    ),
    "a submodule of a submodule": (lambda: under("net.model.", state(1)) | under("net.ema.", state(51)), "net.ema"),
    "AveragedModel": (
        lambda: {"model": state(1), "swa_model": under("module.", state(51)) | {"n_averaged": torch.tensor(3)}},
        "swa_model",
    ),
    "ema_pytorch": (
        lambda: {
            "model": state(1),
            "ema": under("ema_model.", state(51))
            | under("online_model.", state(1))
            | {"initted": torch.tensor([True]), "step": torch.tensor([5])},
        },
        "ema.ema_model",
    ),
}
PARAMETERS: dict[str, tuple[Callable[[], Any], str]] = {
    "by name": (lambda: {"model": state(1), "ema": {"shadow": parameters(51), "decay": 0.9}}, "ema.shadow"),
    "torch_ema": (lambda: {"model": state(1), "ema": {"decay": 0.9, "shadow_params": shadows(51)}}, "ema"),
    "a bare list": (lambda: {"model": state(1), "shadow_params": shadows(51)}, "shadow_params"),
    "with a decay that is a tensor": (
        lambda: {"model": state(1), "ema": {"decay": torch.tensor(0.9), "shadow_params": shadows(51)}},
        "ema",
    ),
    "LitEma": (lambda: {"state_dict": under("model.", state(1)) | lit_ema(51)}, "model_ema"),
}


def read(content: Any, folder: Path) -> Checkpoint:
    torch.save(content, folder / "w.pt")
    return read_checkpoint(folder / "w.pt", weights="ema")


@pytest.mark.parametrize("name", WHOLE)
def test_averages_of_the_whole_model_are_taken(tmp_path: Path, name: str) -> None:
    content, where = WHOLE[name]
    model = make()
    taken = load_weights(model, read(content(), tmp_path))
    expected = state(51)
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert (taken.averaged, taken.lacking) == (where, ())


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_not_averaged_is_the_model_s_own(tmp_path: Path, name: str) -> None:
    content, where = PARAMETERS[name]
    model = make()
    taken = load_weights(model, read(content(), tmp_path))
    expected = state(1) | parameters(51)
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert (taken.averaged, taken.lacking) == (where, ("1.running_mean", "1.running_var", "1.num_batches_tracked"))


@pytest.mark.parametrize("name", [n for n in WHOLE | PARAMETERS if n != "alone"])
def test_the_model_s_own_are_taken_where_nobody_asks_for_averages(tmp_path: Path, name: str) -> None:
    content, _ = (WHOLE | PARAMETERS)[name]
    torch.save(content(), tmp_path / "w.pt")
    model = make()
    taken = load_weights(model, read_checkpoint(tmp_path / "w.pt"))
    expected = state(1)
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert (taken.averaged, taken.lacking) == (None, ())


def test_averages_of_the_trained_parameters_alone(tmp_path: Path) -> None:
    model = make()
    model[0].requires_grad_(False)
    trained = [p for n, p in parameters(51).items() if not n.startswith("0.")]
    taken = load_weights(model, read({"model": state(1), "shadow_params": trained}, tmp_path))
    expected = state(1) | {n: p for n, p in parameters(51).items() if not n.startswith("0.")}
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert taken.lacking[:2] == ("0.weight", "0.bias")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: state(1), "holds no averaged weights"),
        (lambda: {"model": state(1), "ema": {"decay": 0.9}}, "holds no averaged weights"),
        (lambda: {"model": state(1), "shadow_params": shadows(51)[:-1]}, "a list of 5 tensors without names"),
        (lambda: {"model": state(1), "ema": {"other": torch.ones(2)}}, "of none of the model's tensors"),
    ],
)
def test_what_is_no_average_of_the_model_is_refused(tmp_path: Path, content: Callable[[], Any], words: str) -> None:
    model = filled(9)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=words):
        load_weights(model, read(content(), tmp_path))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_note_says_which_were_taken(tmp_path: Path) -> None:
    note = read({"model": state(1), "ema": state(51), "epoch": 1}, tmp_path).note
    assert note == "9 averaged tensors (EMA) taken from 'ema' of a torch zip, as model.weights says."


@pytest.mark.filterwarnings("ignore")
def test_averages_of_a_file_that_was_unpickled(tmp_path: Path) -> None:
    torch.save({"model": filled(1), "ema": filled(51)}, tmp_path / "w.pt")
    trust = "sha256:" + hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    for weights, value in (("model", 1), ("ema", 51)):
        model = make()
        load_weights(model, read_checkpoint(tmp_path / "w.pt", trust=trust, weights=weights))  # type: ignore[arg-type]
        assert all(torch.equal(v, state(value)[k]) for k, v in model.state_dict().items())
