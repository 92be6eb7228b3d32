"""Checkpoints by their name on the Hugging Face hub, out of a cache on disk; nothing asks a network."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from collapsekit.checkpoint.describe import describe
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.io.hub import locate, name_of, reference_to, shown_as
from tests.problems import make_problem

REV, OLD = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as huggingface_hub lays it out: blobs, links to them in snapshots, and what main is."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    from huggingface_hub import constants

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--acme--two"
    (folder / "refs").mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "refs" / "main").write_text(REV)
    for revision, value in ((REV, 1.0), (OLD, 2.0)):
        save_file({"weight": torch.full((2,), value)}, folder / "blobs" / revision)
        (folder / "snapshots" / revision).mkdir(parents=True)
        (folder / "snapshots" / revision / "model.safetensors").symlink_to(f"../../blobs/{revision}")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "revision", "file"),
    [
        ("hf://acme/two", REV, ""),
        ("hf:/acme/two", REV, ""),  # as a Path has it
        (f"hf://acme/two@{OLD}", OLD, ""),
        ("hf://acme/two@main", REV, ""),
        ("hf://acme/two/model.safetensors", REV, "model.safetensors"),
        (f"hf://acme/two@{OLD}/model.safetensors", OLD, "model.safetensors"),
    ],
)
def test_names_lead_to_what_the_cache_has(name: str, revision: str, file: str, cache: Path) -> None:
    wanted = cache / "models--acme--two" / "snapshots" / revision / file
    assert locate(name) == wanted
    assert locate(Path(name)) == wanted
    assert describe(name).tensors[0].norm == pytest.approx((1.0 if revision == REV else 2.0) * 2**0.5)


def test_a_folder_of_the_cache_is_read_as_what_main_is(cache: Path) -> None:
    folder = cache / "models--acme--two"
    assert locate(folder) == folder / "snapshots" / REV
    (folder / "refs" / "main").unlink()
    with pytest.raises(ConfigError, match=r"2 snapshots .* and no refs/main"):
        locate(folder)
    for link in (folder / "snapshots" / OLD).iterdir():
        link.unlink()
    (folder / "snapshots" / OLD).rmdir()
    assert locate(folder) == folder / "snapshots" / REV
    (folder / "refs" / "main").write_text("../../..")
    assert locate(folder) == folder / "snapshots" / REV


def test_other_paths_stay(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "models--a--b", tmp_path / "ckpt.pt", Path("x" * 5000)):
        assert locate(path) == path
        assert name_of(path) == path.name
        assert reference_to(path) is None


@pytest.mark.parametrize(
    "name",
    [
        "hf://acme",
        "hf://",
        "hf://acme/",
        "hf://acme/..",
        "hf://acme/t..wo",
        "hf://acme/two/a..b",
        "hf://../two",
        "hf://acme/two/../../../etc/passwd",
        "hf://acme/two//etc/passwd",
        "hf://acme/two/./x",
        "hf://acme/two/a\\..\\b",
        "hf://acme/two/a\0b",
        "hf://acme/two@../x",
        "hf://acme/two@/x",
        "hf://a--b/two",
        "hf://acme/t\nwo",
        "hf://acme/" + "x" * 500,
    ],
)
def test_names_that_are_none_lead_nowhere(name: str, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no name of a checkpoint on the hub: write hf://ORG/NAME") as caught:
        locate(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("hf://acme/three", "hf download acme/three`"),
        (f"hf://acme/two@{'c' * 40}", f"hf download acme/two --revision {'c' * 40}`"),
        ("hf://acme/two/other.bin", "hf download acme/two other.bin`"),
    ],
)
def test_what_is_not_cached_is_left_to_the_user(name: str, line: str, cache: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        locate(name)
    assert f"is not in the local cache, and nothing is downloaded here: run `{line} first." in str(caught.value)


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"huggingface_hub, which is not installed: install it, or give the path"):
        locate("hf://acme/two")


def test_a_path_that_was_typed_is_shown_as_it_was() -> None:
    assert shown_as(Path("hf://acme/two")) == "hf://acme/two"
    assert shown_as(Path("a/b.pt")) == "a/b.pt"


def test_a_config_names_a_checkpoint_of_the_hub(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    problem = make_problem(tmp_path_factory.mktemp("p"), steps=3)
    save_file(problem.model.state_dict(), cache / "models--acme--two" / "blobs" / REV)
    wanted = problem.diagnose(probes=["reliance"])
    config = {**problem.config, "model": {"checkpoint": "hf://acme/two"}}
    found = problem.diagnose(checkpoint="hf://acme/two", config=config, probes=["reliance"])
    assert found.results == wanted.results
    assert found.subject.checkpoint == "acme/two"
    snapshot = cache / "models--acme--two" / "snapshots" / REV
    assert reference_to(snapshot) == f"hf://acme/two@{REV}"
    with pytest.raises(CollapsekitError, match="not in the local cache"):
        problem.diagnose(checkpoint="hf://acme/three", config=config, probes=["reliance"])
