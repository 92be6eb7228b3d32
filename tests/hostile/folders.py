"""Directories of shards that point outside, to nothing, or at one another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests.hostile.assemble import FLOATS, beside, called, floats, good_zip, named, plain, safe, torch_zip
from tests.hostile.catalogue import add, read, refused, touch

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"


def _folder(folder: Path, index: Any = None, shard: str | None = SHARD) -> Path:
    """A directory with one shard and an index of it, or with any other index."""
    there = folder / "model"
    there.mkdir()
    if shard:
        safe(there / shard, {"w": floats()})
    text = {"metadata": {}, "weight_map": {"w": SHARD}} if index is None else index
    (there / INDEX).write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
    return there


def _map(**names: Any) -> dict[str, Any]:
    return {"weight_map": names}


@read()
def sharded_by_directory(folder: Path) -> Path:
    """Lawful: what the directories below differ from."""
    return _folder(folder)


@read()
def sharded_by_index(folder: Path) -> Path:
    """Lawful: the index itself is named."""
    return _folder(folder) / INDEX


OUTSIDE = "names a file outside its directory"
INDEXES: dict[str, tuple[Any, str]] = {
    "shard_above": (_map(w="../../etc/passwd"), OUTSIDE),
    "shard_above_by_the_other_slash": (_map(w="..\\..\\x"), OUTSIDE),
    "shard_in_a_subfolder": (_map(w="sub/" + SHARD), OUTSIDE),
    "shard_absolute": (_map(w="/etc/passwd"), OUTSIDE),
    "shard_with_nul": (_map(w=SHARD + "\0.x"), OUTSIDE),
    "shard_with_an_escape": (_map(w="\x1b[31m\n::error::x"), OUTSIDE),
    "shard_is_the_folder": (_map(w="."), OUTSIDE),
    "shard_is_the_parent": (_map(w=".."), OUTSIDE),
    "shard_without_a_name": (_map(w=""), OUTSIDE),
    "shard_of_a_long_name": (_map(w="s" * 100_000), OUTSIDE + "|not there|too long"),
    "shard_name_a_number": (_map(w=3), "weight_map"),
    "shard_is_the_index": (_map(w=INDEX), "is not a safetensors file"),
    "shard_missing": (_map(w=SHARD, v="model-00002-of-00002.safetensors"), "is not there"),
    "tensor_not_in_its_shard": (_map(w=SHARD, v=SHARD), "does not hold 'v'"),
    "tensor_not_in_the_index": (_map(v=SHARD), "does not hold 'v'"),
    "weight_map_a_list": ({"weight_map": ["w", SHARD]}, "weight_map"),
    "weight_map_missing": ({"metadata": {}}, "weight_map"),
    "weight_map_empty": (_map(), "weight_map|no named tensors"),
    "index_a_list": ([1, 2], "weight_map"),
    "index_not_json": (b"{nope", "index is not the JSON"),
    "index_not_utf8": (b'{"weight_map": {"\xff": "x"}}', "index is not the JSON"),
    "index_nested": (b'{"weight_map":' + b"[" * 200_000, "index is not the JSON"),
    "index_with_keys_twice": (
        f'{{"weight_map": {{"w": "{SHARD}", "w": "{SHARD}"}}}}'.encode(),
        "a key stands twice",
    ),
    "index_of_50000_entries": (_map(**{f"t{i}": SHARD for i in range(50_000)}), "does not hold 't0'"),
}
for key, (index, says) in INDEXES.items():

    def _indexed(folder: Path, index: Any = index) -> Path:
        return _folder(folder, index)

    add(_indexed, key, says=says)


def _special(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        there = _folder(folder, shard=None)
        make(there / SHARD)
        return there

    return build


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard_a_pipe": (os.mkfifo, "pipe"),
    "shard_a_link_to_itself": (lambda p: p.symlink_to(p), "link"),
    "shard_a_link_to_zeros": (lambda p: p.symlink_to("/dev/zero"), "device"),
    "shard_a_link_to_nothing": (lambda p: p.symlink_to("/nonexistent"), "not there|does not exist"),
    "shard_a_folder": (lambda p: p.mkdir(), "directory"),
    "shard_empty": (lambda p: p.touch(), "empty"),
    "shard_cut": (lambda p: p.write_bytes(b"\x40\0\0\0\0\0\0\0{"), "header claims"),
    "shard_a_hostile_pickle": (
        lambda p: torch_zip(p, beside(called(named("posix", "system"), plain("true")))),
        "is not a safetensors file",
    ),
}
for key, (special, says) in SPECIAL.items():
    add(_special(special), key, says=says)


def _left_out(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].tolist() == [0, 1, 2, 3]
    assert checkpoint.tensors["v"].tolist() == [0, 1]
    assert "left out" in checkpoint.note


@read(_left_out)
def two_shards_hold_one_tensor(folder: Path) -> Path:
    """The index names one of them; the other's numbers differ, and the note says that they were left out."""
    there = _folder(folder, _map(w=SHARD, v="other.safetensors"))
    safe(there / "other.safetensors", {"v": floats([2], 0, 8), "w": floats([2], 8, 16)})
    return there


@refused("pytorch_model.bin")
def only_a_torch_file(folder: Path) -> Path:
    """A Hugging Face directory of before safetensors: the file in it is to be named."""
    (folder / "model").mkdir()
    good_zip(folder / "model" / "pytorch_model.bin")
    return folder / "model"


@refused("pytorch_model.bin")
def only_a_hostile_torch_file(folder: Path) -> Path:
    """The same, and its pickle acts: it is not opened."""
    (folder / "model").mkdir()
    torch_zip(folder / "model" / "pytorch_model.bin", beside(called(named("posix", "system"), plain(touch(folder)))))
    return folder / "model"


@refused("without weights|no weights")
def empty_directory(folder: Path) -> Path:
    """Nothing in it."""
    (folder / "model").mkdir()
    return folder / "model"


@refused("without weights|no weights")
def directory_of_other_things(folder: Path) -> Path:
    """A README, a script and a folder."""
    (folder / "model" / "sub").mkdir(parents=True)
    (folder / "model" / "README.md").write_text("hello")
    (folder / "model" / "setup.py").write_text("raise SystemExit(1)")
    return folder / "model"


@refused("without weights|no weights")
def directory_that_contains_itself(folder: Path) -> Path:
    """A link back to the directory, which a search would follow without end."""
    (folder / "model").mkdir()
    (folder / "model" / "again").symlink_to(folder / "model")
    return folder / "model"


@refused("without weights|no weights")
def directory_of_many_files(folder: Path) -> Path:
    """1,000 empty files of no known name."""
    (folder / "model").mkdir()
    for i in range(1_000):
        (folder / "model" / f"{i}.txt").touch()
    return folder / "model"


@refused("DeepSpeed")
def deepspeed_zero(folder: Path) -> Path:
    """Partitioned optimizer states, which only DeepSpeed's own script joins."""
    there = folder / "model" / "global_step10"
    there.mkdir(parents=True)
    for rank in range(2):
        good_zip(there / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        good_zip(there / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (folder / "model" / "latest").write_text("global_step10")
    (folder / "model" / "zero_to_fp32.py").write_text("raise SystemExit(1)")
    return folder / "model"


@refused("several sets of weights")
def several_weights_side_by_side(folder: Path) -> Path:
    """Two safetensors files and no index: which of them is meant is not to be guessed."""
    (folder / "model").mkdir()
    safe(folder / "model" / "a.safetensors", {"w": floats()})
    safe(folder / "model" / "b.safetensors", {"w": floats()}, FLOATS[::-1])
    return folder / "model"


@read()
def index_beside_a_hostile_config(folder: Path) -> Path:
    """config.json and a script say things that nobody asked."""
    there = _folder(folder)
    (there / "config.json").write_bytes(b"[" * 200_000)
    (there / "modeling.py").write_text("raise SystemExit(1)")
    torch.save({"x": torch.ones(1)}, there / "training_args.bin")
    return there
