"""Large checkpoints: what is not asked for is not read, and what is read does not stay in memory."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from benchmarks.speed.large import LOAD, READ, peak
from benchmarks.speed.sparse import WIDTH, safetensors_file, sharded, torch_zip
from collapsekit.adapters.weights.load import load_weights
from collapsekit.checkpoint import describe as module
from collapsekit.checkpoint import mmap as mapping
from collapsekit.checkpoint.describe import describe
from collapsekit.checkpoint.mmap import forget, mapped, mapped_in_turn
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.checkpoint.sandbox import look_into
from collapsekit.cli import app
from collapsekit.errors import RefusedError

EACH = 2 * WIDTH * WIDTH  # bytes of one weight
COUNT = 64  # 2.1 GB
LEAST = pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system cannot be told to let pages go")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.1 GB in four shards, all holes."""
    made = tmp_path_factory.mktemp("sparse") / "set"
    sharded(made, COUNT)
    return made


@pytest.fixture(scope="module")
def bare() -> float:
    """MB that importing torch and the reader takes."""
    return peak("-c", "import collapsekit.adapters.build")[1]


def test_large_sets_are_described_by_their_headers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in ((mapping, "mapped_in_turn"), (module, "sha256_of"), (module, "sha256_of_all")):
        monkeypatch.setattr(place, name, None)  # what would read the files
    found = describe(folder)
    assert (found.values, found.sha256, found.refused) == (False, None, None)
    assert len(found.tensors) == COUNT
    assert {(r.shape, r.dtype, r.bytes) for r in found.tensors} == {((WIDTH, WIDTH), "bfloat16", EACH)}
    assert {(r.norm, r.nan, r.inf) for r in found.tensors} == {(None, None, None)}


def test_inspecting_a_large_set_takes_no_memory(folder: Path) -> None:
    assert peak("-m", "collapsekit", "inspect", str(folder))[1] < 500


@pytest.mark.slow  # as its archive's; in parts and one copy only, below
def test_reading_a_large_set_maps_it(folder: Path, bare: float) -> None:
    assert peak("-c", READ, str(folder))[1] < bare + 100


@pytest.mark.slow
def test_reading_a_large_archive_maps_it(tmp_path: Path, bare: float) -> None:
    torch_zip(tmp_path / "w.pt", COUNT)
    assert peak("-c", READ, str(tmp_path / "w.pt"))[1] < bare + 100


@LEAST
@pytest.mark.slow
def test_reading_every_number_of_a_large_set_keeps_none(folder: Path, bare: float) -> None:
    assert peak("-m", "collapsekit", "inspect", "--values", str(folder))[1] < bare + 100


@LEAST
def test_loading_weights_holds_one_copy_of_the_model(tmp_path: Path, bare: float) -> None:
    count = 16
    size = sharded(tmp_path / "set", count) / 1e6
    held = peak("-c", LOAD, str(tmp_path / "set"), str(count), str(WIDTH))[1]
    assert size > 500
    assert held < bare + 1.2 * size


def test_one_large_tensor_is_read_in_parts(tmp_path: Path, bare: float) -> None:
    safetensors_file(tmp_path / "w.safetensors", {"w": (150_000_000,)})
    _, held = peak("-m", "collapsekit", "inspect", "--values", str(tmp_path / "w.safetensors"))
    assert held < bare + 200


def test_values_are_read_when_asked_for_and_by_default_of_small_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.tensor([3.0, 4.0]), "b": torch.ones(2, 3, dtype=torch.bool)}, path)
    read = describe(path)
    assert (read.values, read.tensors[0].norm) == (True, 5.0)
    headers = describe(path, values=False)
    assert (headers.values, headers.sha256) == (False, None)
    same = [(r.name, r.shape, r.dtype, r.bytes) for r in headers.tensors]
    assert same == [(r.name, r.shape, r.dtype, r.bytes) for r in read.tensors]
    monkeypatch.setattr(module, "READ_UNASKED", path.stat().st_size)
    assert describe(path) == read
    monkeypatch.setattr(module, "READ_UNASKED", path.stat().st_size - 1)
    assert describe(path) == headers
    assert describe(path, values=True) == read


def test_what_is_refused_is_read_for_its_digest_only_where_that_is_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_UNASKED", 1)
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    assert describe(tmp_path / "m.pt").sha256 is not None  # what --trust-pickle asks for
    assert describe(tmp_path / "m.pt", values=False).sha256 is None
    (tmp_path / "page.pt").write_text("<!doctype html><html>not found</html>")
    assert describe(tmp_path / "page.pt").sha256 is None
    assert describe(tmp_path / "page.pt", values=True).sha256 is not None


def test_a_dtype_that_the_reader_did_not_check_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    found = look_into(tmp_path / "w.safetensors")
    found["tensors"][0][1] = "\x1b[31m"
    monkeypatch.setattr(module, "look_into", lambda path: found)
    described = describe(tmp_path / "w.safetensors", values=False)
    assert described.tensors == ()
    assert "dtype" in str(described.refused)


def test_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a.weight": torch.tensor([3.0, 4.0])}, path)
    run = CliRunner()
    headers = run.invoke(app, ["inspect", "--no-values", str(path)])
    assert headers.exit_code == 0
    assert "not read (--values reads the files whole)" in headers.stdout
    assert not any(word in headers.stdout for word in ("norm ", "sha256:", "None"))
    assert "a.weight" in headers.stdout
    whole = run.invoke(app, ["inspect", str(path)])
    assert whole.stdout == run.invoke(app, ["inspect", "--values", str(path)]).stdout
    assert "sha256:" in whole.stdout
    assert "not read" not in whole.stdout
    told = json.loads(run.invoke(app, ["inspect", "--no-values", "--json", str(path)]).stdout)
    assert (told["sha256"], told["values"], told["tensors"][0]["norm"]) == (None, False, None)


def test_tensors_in_turn_are_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.randn(3, 4).t(), "b": torch.arange(5), "c": torch.zeros(0, 2), "d": torch.rand(())}, path)
    found = look_into(path)
    every = mapped(found["files"], found["tensors"])
    for name, tensor in mapped_in_turn(found["files"], found["tensors"]):
        assert torch.equal(tensor, every[name])
    with path.open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(RefusedError, match="changed while it was being read"):
        next(mapped_in_turn(found["files"], found["tensors"]))


def test_what_is_forgotten_is_read_again(tmp_path: Path) -> None:
    given = {"a": torch.randn(300, 700), "b": torch.randn(9000).half(), "none": torch.zeros(0)}
    save_file(given, tmp_path / "w.safetensors")
    tensors = read_checkpoint(tmp_path / "w.safetensors").tensors
    for name, tensor in tensors.items():
        for view in (tensor, tensor[3:], tensor.t()):
            forget(view)
            assert torch.equal(tensor, given[name])


def test_only_what_is_mapped_is_forgotten() -> None:
    own = torch.arange(5000.0)
    for tensor in (own, own[7:], torch.empty(3, device="meta")):
        forget(tensor)
    assert torch.equal(own, torch.arange(5000.0))


def test_weights_are_loaded_once_and_again(tmp_path: Path) -> None:
    source, model = nn.Linear(40, 50), nn.Linear(40, 50)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    checkpoint = read_checkpoint(tmp_path / "w.pt")
    for _ in range(2):
        nn.init.zeros_(model.weight)
        load_weights(model, checkpoint)
        assert torch.equal(model.weight, source.weight)
        assert torch.equal(checkpoint.tensors["weight"], source.weight)
