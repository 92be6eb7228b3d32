from __future__ import annotations

import fractions
import importlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

from collapsekit.checkpoint import hashing as digest_module
from collapsekit.checkpoint import read as read_module
from collapsekit.checkpoint import trust as trusted
from collapsekit.checkpoint.formats.detect import UnreadableError
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.checkpoint.trust import digest_named
from collapsekit.cli import app
from collapsekit.config.load import load_config
from collapsekit.errors import ConfigError, RefusedError
from tests.factories import digest_of

MODULE = """
import os, torch
class Act:
    def __reduce__(self):
        return (touch, ({canary!r},))
def touch(path):
    open(path, "w").close()
    return dict(w=torch.arange(3.0))
class Failing:
    def __reduce__(self):
        return (fail, ())
def fail():
    raise SystemExit("no\\nmore of it")
"""


def digest(path: Path) -> str:
    return f"sha256:{digest_of(path)}"


def saved(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of the user's own, whose classes act when they are unpickled."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "their_own_module.py").write_text(MODULE.format(canary=str(tmp_path / "canary")))
    monkeypatch.syspath_prepend(str(code))
    yield importlib.import_module("their_own_module")
    sys.modules.pop("their_own_module", None)


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_a_module_gives_its_state_dict_to_whom_trusts_it(tmp_path: Path, linear: nn.Module) -> None:
    path = saved(linear, tmp_path / "m.pt")
    with pytest.raises(UnreadableError):
        read_checkpoint(path)
    for trust in (digest(path), digest(path).upper().replace("SHA256", "sha256"), f" {digest(path)}\n"):
        got = read_checkpoint(path, trust=trust)
        assert {k: v.tolist() for k, v in got.tensors.items()} == {
            k: v.tolist() for k, v in linear.state_dict().items()
        }
        assert not any(v.requires_grad for v in got.tensors.values())
        assert (got.trusted, got.sha256, got.key) == (True, digest(path)[7:], None)
        assert got.note == (
            "2 tensors taken from the top level after unpickling, as --trust-pickle said: the file's code was run."
        )
        assert "torch.nn.modules.linear.Linear" in got.names


@pytest.mark.parametrize("wrap", [lambda m: {"model": m, "epoch": 3}, lambda m: {"model": m.state_dict(), "by": m}])
def test_a_module_one_level_down(tmp_path: Path, linear: nn.Module, wrap: Callable[[Any], Any]) -> None:
    path = saved(wrap(linear), tmp_path / "m.pt")
    got = read_checkpoint(path, trust=digest(path)) if isinstance(wrap(linear)["model"], nn.Module) else None
    if got is None:  # its state dict is read without trust
        assert read_checkpoint(path).key == "model"
        return
    assert sorted(got.tensors) == ["bias", "weight"]
    assert got.key == "model"
    assert "from 'model' after" in got.note


def test_torchscript_is_loaded_as_such(tmp_path: Path, linear: nn.Module) -> None:
    path = tmp_path / "m.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(linear), str(path))
    with pytest.raises(UnreadableError):
        read_checkpoint(path)
    got = read_checkpoint(path, trust=digest(path))
    assert (got.format, got.trusted) == ("TorchScript", True)
    assert torch.equal(got.tensors["weight"], linear.weight)


def test_another_digest_executes_nothing(tmp_path: Path, module: Any) -> None:
    path = saved(module.Act(), tmp_path / "m.pt")
    with pytest.raises(RefusedError, match="names another: nothing of it was executed"):
        read_checkpoint(path, trust="sha256:" + "0" * 64)
    with pytest.raises(RefusedError):
        read_checkpoint(path)
    assert not (tmp_path / "canary").exists()
    assert read_checkpoint(path, trust=digest(path)).tensors["w"].tolist() == [0, 1, 2]
    assert (tmp_path / "canary").exists()  # so the refusals above were about something


def test_the_bytes_that_were_hashed_are_those_that_are_loaded(
    tmp_path: Path, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt"
    acting = saved(module.Act(), tmp_path / "acting.pt")
    real_open, real_look, real_read = digest_module.open_regular, read_module.look_into, trusted.read_whole
    opened = []

    def replaced(*_: Any) -> None:
        shutil.copy(acting, tmp_path / "next")
        (tmp_path / "next").replace(path)

    def overwritten(*_: Any) -> None:
        path.write_bytes(acting.read_bytes())

    def opening(change: Callable[[], None] | None = None) -> Callable[[Path], Any]:
        def opened_regular(place: Path) -> Any:
            stream = real_open(place)
            opened.append(place)
            if change is not None:
                change()
            return stream

        return opened_regular

    def then(real: Callable[..., Any], change: Callable[[], None]) -> Callable[..., Any]:
        def done(*args: Any) -> Any:
            try:
                return real(*args)
            finally:
                change()

        return done

    for change in (replaced, overwritten):  # as someone would who waits for his moment
        seams = (
            (read_module, "look_into", then(real_look, change)),
            (digest_module, "open_regular", opening(change)),
            (trusted, "read_whole", then(real_read, change)),
        )
        for place, name, seam in seams:
            saved(nn.Linear(1, 1), path)
            good = digest(path)
            with monkeypatch.context() as patch:
                patch.setattr(place, name, seam)
                try:
                    assert sorted(read_checkpoint(path, trust=good).tensors) == ["bias", "weight"]
                except RefusedError as e:
                    assert "names another: nothing of it was executed" in str(e)  # noqa: PT017
            assert digest(path) == digest(acting)
            assert not (tmp_path / "canary").exists()
    saved(nn.Linear(1, 1), path)
    monkeypatch.setattr(digest_module, "open_regular", opening())
    opened.clear()
    read_checkpoint(path, trust=digest(path))
    assert opened == [path]  # once, to be read, hashed and unpickled


@pytest.mark.parametrize(
    "trust", ["", "sha256:", "yes", "a" * 64, "sha256:" + "a" * 63, "sha256:" + "g" * 64, "md5:" + "a" * 64]
)
def test_digests_that_are_none(tmp_path: Path, trust: str) -> None:
    path = saved({"w": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="is not of the form sha256:DIGEST"):
        read_checkpoint(path, trust=trust)
    with pytest.raises(ConfigError, match="is not of the form sha256:DIGEST"):
        digest_named(trust)


def test_a_file_that_needs_no_trust_is_read_without(tmp_path: Path) -> None:
    path = saved({"w": torch.ones(1)}, tmp_path / "w.pt")
    assert not read_checkpoint(path, trust=digest(path)).trusted
    with pytest.raises(RefusedError, match="leave the option out"):
        read_checkpoint(path, trust="sha256:" + "0" * 64)


def test_trust_does_not_make_damaged_files_sound(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UnreadableError, match="not a sound zip"):
        read_checkpoint(path, trust=digest(path))


def test_classes_come_from_the_given_folder_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "elsewhere"
    code.mkdir()
    (code / "yet_another_module.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(1, 1)\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(code))
        import yet_another_module  # type: ignore[import-not-found]

        path = saved(yet_another_module.Net(), tmp_path / "m.pt")
    del sys.modules["yet_another_module"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"could not be unpickled \(.*No module named 'yet_another_module'.*importable"
    ):
        read_checkpoint(path, trust=digest(path))
    assert sorted(read_checkpoint(path, trust=digest(path), folder=code).tensors) == ["a.bias", "a.weight"]
    sys.modules.pop("yet_another_module", None)


def test_a_file_whose_code_fails(tmp_path: Path, module: Any) -> None:
    path = saved({"x": module.Failing()}, tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="was trusted, and could not be unpickled") as e:
        read_checkpoint(path, trust=digest(path))
    assert "\n" not in str(e.value)


def test_a_file_without_weights(tmp_path: Path, module: Any) -> None:
    path = saved(fractions.Fraction(1, 2), tmp_path / "m.pt")
    with pytest.raises(RefusedError, match=r"was unpickled and holds no weights \(it is a Fraction\)\."):
        read_checkpoint(path, trust=digest(path))


# --- never by another way -------------------------------------------------------------------------------------


def test_no_environment_variable_lets_a_pickle_be_executed(
    tmp_path: Path, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(module.Act(), tmp_path / "m.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for name in ("TRUST_PICKLE", "TRUST", "DIAGNOSE_TRUST_PICKLE", "INIT_TRUST_PICKLE"):
        monkeypatch.setenv(f"COLLAPSEKIT_{name}", digest(path))
        monkeypatch.setenv(f"_COLLAPSEKIT_{name}", digest(path))
    for command in (["inspect", str(path)], ["init", str(path), "-o", str(tmp_path / "made.yaml")]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 3, done.output
    assert not (tmp_path / "canary").exists()
    # And this is what the first variable does to code that does not say what it wants.
    with pytest.warns(UserWarning, match="forcing weights_only=False"):
        torch.load(path)
    assert (tmp_path / "canary").exists()


def test_no_option_of_the_command_line_reads_the_environment() -> None:
    group = typer.main.get_command(app)
    options = [p for command in group.commands.values() for p in command.params]  # type: ignore[attr-defined]
    assert any("--trust-pickle" in p.opts for p in options)
    assert [p.name for p in options if p.envvar] == []
    assert group.context_settings.get("auto_envvar_prefix") is None


@pytest.mark.parametrize("where", ["", "model: {factory: 'm:n', checkpoint: w.pt, %s}\n"])
@pytest.mark.parametrize("key", ["trust_pickle", "trust-pickle", "trust"])
def test_no_config_lets_a_pickle_be_executed(tmp_path: Path, where: str, key: str) -> None:
    entry = f"{key}: sha256:{'a' * 64}"
    base = "modalities: {a: x, b: y}\nfusion: f\ndata: {path: d.npz}\n"
    text = base + (where % entry if where else f"model: {{factory: 'm:n', checkpoint: w.pt}}\n{entry}\n")
    config = tmp_path / "collapsekit.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError, match="trust"):
        load_config(config)
    config.write_text(text.replace(entry, ""))
    load_config(config)


def test_importable_classes_do_not_stay_on_the_path(tmp_path: Path, linear: nn.Module) -> None:
    path = saved(linear, tmp_path / "m.pt")
    before = list(sys.path)
    read_checkpoint(path, trust=digest(path), folder=tmp_path)
    assert sys.path == before


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_trusted_copy_equals_what_its_state_dict_gives(tmp_path: Path, linear: nn.Module) -> None:
    whole, plain = saved(linear, tmp_path / "m.pt"), saved(linear.state_dict(), tmp_path / "s.pt")
    assert same(read_checkpoint(whole, trust=digest(whole)).tensors, read_checkpoint(plain).tensors)
