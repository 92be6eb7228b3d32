from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from collapsekit.checkpoint.formats import hf_folder as module
from collapsekit.checkpoint.formats.detect import locate
from collapsekit.checkpoint.formats.hf_folder import find_in_folder
from collapsekit.errors import RefusedError
from tests.checkpoint.formats.reading import any_json, assert_same, read, refused

A = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
B = {"c": torch.tensor([True, False])}


def put(folder: Path, **contents: Any) -> None:
    for name, content in contents.items():
        path = folder / name.replace("__", ".")
        if isinstance(content, dict):
            save_file(content, path)
        else:
            path.write_bytes(content)


def index(weight_map: Any) -> bytes:
    return any_json({"metadata": {"total_size": 1}, "weight_map": weight_map})


def sharded(folder: Path, name: str = "model") -> None:
    folder.mkdir(exist_ok=True)
    put(folder, **{"one__safetensors": A, "two__safetensors": B})
    shards = {"a": "one.safetensors", "c": "two.safetensors", "b": "one.safetensors"}
    (folder / f"{name}.safetensors.index.json").write_bytes(index(shards))


# --- as others write them -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertModel(config)
    folder = tmp_path_factory.mktemp("hub") / "saved"
    model.save_pretrained(folder, max_shard_size="4KB")
    model.save_pretrained(folder.with_name("whole"))
    return folder, {k: v.clone() for k, v in model.state_dict().items()}


def test_what_transformers_saves_in_shards(tiny: tuple[Path, dict[str, Tensor]]) -> None:
    folder, want = tiny
    shards = list(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert_same(read(folder), want, order=False)
    found = locate(folder)
    assert f"read from {len(shards)} shards" in found.note
    assert {p.name for p in found.files} == {"model.safetensors.index.json", *(p.name for p in shards)}
    assert_same(read(folder / "model.safetensors.index.json"), want, order=False)
    assert_same(read(folder.with_name("whole")), want, order=False)


def test_a_snapshot_of_the_hub_s_cache_is_links_to_blobs(tiny: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    folder, want = tiny
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        (blobs / f"blob{i}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob{i}")
    assert_same(read(snapshot), want, order=False)


def test_what_accelerate_saves(tmp_path: Path) -> None:
    put(tmp_path, model__safetensors=A, scheduler__bin=pickle.dumps({}), random_states_0__pkl=pickle.dumps({}))
    torch.save({"state": {}}, tmp_path / "optimizer.bin")
    assert_same(read(tmp_path), A)


# --- which file of a directory --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors"], "model.safetensors"),
        (["other.safetensors", "config.json"], "other.safetensors"),
        (["model.safetensors", "adapter.safetensors"], "model.safetensors"),
        (["model.safetensors.index.json", "a.safetensors", "b.safetensors"], "model.safetensors.index.json"),
        (["net.safetensors.index.json", "a.safetensors", "b.safetensors"], "net.safetensors.index.json"),
        (["net.safetensors.index.json", "a.safetensors"], "net.safetensors.index.json"),
        (["net.safetensors.index.json", "model.safetensors.index.json"], "model.safetensors.index.json"),
        (["model.safetensors", "model.safetensors.index.json"], "model.safetensors"),
    ],
)
def test_the_one_file_that_is_meant(tmp_path: Path, names: list[str], chosen: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert find_in_folder(tmp_path) == tmp_path / chosen


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["a.safetensors", "b.safetensors"],
            ["several sets of weights ('a.safetensors', 'b.safetensors')", "name the"],
        ),
        (
            ["a.safetensors.index.json", "b.safetensors.index.json", "c.safetensors"],
            ["several sets of weights ('a.safetensors.index.json', 'b.safetensors.index.json')"],
        ),
        (["latest"], ["DeepSpeed", "zero_to_fp32.py . OUTPUT --safe_serialization"]),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt"], ["DeepSpeed"]),
        (["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], ["DeepSpeed"]),
        (["mp_rank_00_model_states.pt"], ["DeepSpeed"]),
        (["pytorch_model.bin", "config.json"], ["'pytorch_model.bin'", "safe_serialization=True"]),
        (["net.pt", "net.pth", "a.ckpt"], ["'a.ckpt'"]),
        (["readme.md"], ["without weights that can be read"]),
        ([], ["without weights that can be read"]),
    ],
)
def test_directories_without_the_one_file_say_what_to_do(tmp_path: Path, names: list[str], says: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    refused(tmp_path, *says)


def test_a_directory_around_a_distributed_checkpoint(tmp_path: Path) -> None:
    inner = tmp_path / "pytorch_model_fsdp_0"
    inner.mkdir()
    (inner / ".metadata").touch()
    refused(tmp_path, "in its folder 'pytorch_model_fsdp_0': give that folder")


def test_a_directory_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> Any:  # the user who runs the tests may be allowed everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(RefusedError, match=r"cannot be listed \(Permission denied\)"):
        find_in_folder(tmp_path)


# --- an index and its shards ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "diffusion_pytorch_model"])
def test_names_are_in_the_order_of_the_index(tmp_path: Path, name: str) -> None:
    sharded(tmp_path, name)
    want = {"a": A["a"], "c": B["c"], "b": A["b"]}
    assert_same(read(tmp_path), want)
    assert_same(read(tmp_path / f"{name}.safetensors.index.json"), want)
    assert locate(tmp_path).format == "sharded safetensors"
    note = locate(tmp_path).note
    assert "read from 2 shards" in note
    assert "does not place there" not in note


def test_tensors_that_the_index_does_not_name_are_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path, one__safetensors=A, two__safetensors={**B, "a": torch.zeros(1)})
    put(tmp_path, model__safetensors__index__json=index({"a": "one.safetensors", "c": "two.safetensors"}))
    assert_same(read(tmp_path), {"a": A["a"], "c": B["c"]})
    assert "2 tensors in its shards that its index does not place there left out" in locate(tmp_path).note


def remove(folder: Path) -> None:
    (folder / "two.safetensors").unlink()


def dangle(folder: Path) -> None:
    remove(folder)
    (folder / "two.safetensors").symlink_to(folder / "gone")


def pickled(folder: Path) -> None:
    torch.save(B, folder / "two.safetensors")


def another(folder: Path) -> None:
    save_file({"d": torch.ones(1)}, folder / "two.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove, "its file 'two.safetensors' is not there"),
        (dangle, "its file 'two.safetensors' is not there"),
        (pickled, "its shard 'two.safetensors' is not a safetensors file"),
        (another, "its shard 'two.safetensors' does not hold 'c', as its index says"),
    ],
)
def test_shards_that_are_not_what_the_index_says(tmp_path: Path, change: Callable[[Path], None], says: str) -> None:
    sharded(tmp_path)
    change(tmp_path)
    refused(tmp_path, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "its index is not the JSON it should be"),
        (b"[]", "no weight_map"),
        (b"{}", "no weight_map"),
        (index(["one.safetensors"]), "no weight_map"),
        (index({"a": 7}), "no weight_map"),
        (index({"a": "../one.safetensors"}), "outside its directory"),
        (index({"a": "/one.safetensors"}), "outside its directory"),
        (index({"a": "x" * 300}), "is not there"),
        (b'{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}', "a key stands twice"),
        (index({}), "holds no named tensors"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, content: bytes, says: str) -> None:
    sharded(tmp_path)
    put(tmp_path, model__safetensors__index__json=content)
    refused(tmp_path, says)


def test_shards_without_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded(tmp_path)
    monkeypatch.setattr(module, "_MAX_SHARDS", 1)
    refused(tmp_path, "its index names 2 shards, more than the 1 that are read")
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())
