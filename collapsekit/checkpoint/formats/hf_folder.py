"""Directories of weights: Hugging Face, accelerate and what is repaired here, in safetensors only; DeepSpeed refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collapsekit.checkpoint.formats.dcp import METADATA, base_name
from collapsekit.checkpoint.formats.layout import DamagedError, LimitError, Loaded
from collapsekit.checkpoint.formats.safetensors_npz import (
    check_count,
    is_safetensors,
    load_safetensors,
    parse_json,
    read_json,
)
from collapsekit.checkpoint.formats.source import Opened, open_part
from collapsekit.errors import RefusedError

INDEX_SUFFIX = ".safetensors.index.json"
_MAIN = "model.safetensors"
_PEFT = {"adapter_config.json", "adapter_model.bin"}  # of tensors alone, whoever else pickles into such a name
_MAX_SHARDS = 10_000
_ZERO_MARKS = ("zero_pp_rank_", "bf16_zero_pp_rank_", "mp_rank_")


def is_index(file: Opened) -> bool:
    """Tell whether it is the JSON that says in which shard each tensor of a sharded checkpoint lies."""
    return file.path.name.endswith(INDEX_SUFFIX)


def find_in_folder(folder: Path) -> Path:
    """Return the one file in a directory to read weights from. Raises RefusedError, saying what is there instead."""
    try:
        names: list[str] = sorted(p.name for p in folder.iterdir())
    except OSError as e:
        raise RefusedError(f"{folder} cannot be listed ({e.strerror}): check its permissions.") from None
    indices = [n for n in names if n.endswith(INDEX_SUFFIX)]
    whole = [n for n in names if n.endswith(".safetensors")]
    alone = indices if len(indices) == 1 else whole if len(whole) == 1 and not indices else []
    for name in (_MAIN, f"{_MAIN}.index.json", *alone):  # as transformers chooses: the whole file before the shards
        if name in names:
            return folder / name
    if set(names) >= _PEFT:
        return folder / "adapter_model.bin"
    if whole or indices:
        several = ", ".join(repr(n[:60]) for n in (indices or whole)[:4])
        raise RefusedError(
            f"{folder} is a directory with several sets of weights ({several}): name the file that is meant."
        )
    raise RefusedError(_instead(folder, names))


def _instead(folder: Path, names: list[str]) -> str:
    if any(n.startswith(_ZERO_MARKS) for n in names) or (folder / "latest").is_file():
        return (
            f"{folder} is a DeepSpeed checkpoint, split over ranks and pickled: join it in the folder where it was made "
            "with `python zero_to_fp32.py . OUTPUT --safe_serialization` and give OUTPUT."
        )
    inner = next((n for n in names if (folder / n / METADATA).is_file()), None)
    if inner is not None:
        return f"{folder} holds the weights in its folder {inner[:80]!r}: give that folder."
    pickled = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        first = pickled[0][:80]
        return (
            f"{folder} is a directory without safetensors: give the file in it that holds the weights (there is {first!r}), "
            "or save again with `model.save_pretrained(DIR, safe_serialization=True)`."
        )
    return (
        f"{folder} is a directory without weights that can be read (no .safetensors, no index of them, no .metadata of "
        "torch.distributed.checkpoint): name the weights file itself."
    )


def load_sharded(file: Opened) -> Loaded:
    """Return name -> tensor, each from the shard its index names, in the index's own directory. Raises DamagedError."""
    index = parse_json(read_json(file.whole, "its index"), "its index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise DamagedError("its index has no weight_map of names to shards")
    shards = dict.fromkeys(weight_map.values())
    if len(shards) > _MAX_SHARDS:
        raise LimitError(f"its index names {len(shards):,} shards, more than the {_MAX_SHARDS:,} that are read")
    held: dict[str, dict[str, Any]] = {}
    ties: dict[str, str] = {}
    paths, count = [file.path], 0
    for shard in shards:
        path = file.path.parent / base_name(shard)
        loaded = _shard(path)
        held[shard] = loaded.content
        ties |= loaded.ties
        count += len(held[shard])
        check_count(count, "tensors in its shards")
        paths.append(path)
    tensors = {}
    for name, shard in weight_map.items():
        if name not in held[shard]:
            raise DamagedError(f"its shard {shard[:60]!r} does not hold {name[:60]!r}, as its index says")
        tensors[name] = held[shard][name]
    unlisted = sum(name not in weight_map or weight_map[name] != s for s, each in held.items() for name in each)
    about = [f"{unlisted} tensors in its shards that its index does not place there left out"] if unlisted else []
    ties = {name: kept for name, kept in ties.items() if name not in tensors and kept in tensors}
    return Loaded(tensors, paths, checksummed=False, about=[f"read from {len(shards)} shards", *about], ties=ties)


def _shard(path: Path) -> Loaded:
    shard = open_part(path)
    if not is_safetensors(shard):
        raise DamagedError(f"its shard {path.name[:100]!r} is not a safetensors file")
    return load_safetensors(shard)
