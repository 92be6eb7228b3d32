"""Tensors in shards: what one number of processes wrote, any other reads to the bit; what was changed is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from collapsekit.io.shards import (
    Rows,
    open_shards,
    read_index,
    shard_name,
    write_index,
    write_shard,
)

SAID = {"number": "1", "what": "Grüße"}


def tensors(rows: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(rows)
    return {
        "weight": torch.randn(rows, 3, generator=g),
        "bias": torch.randn(rows, generator=g).bfloat16(),
        "odd": torch.tensor([[float("nan"), -0.0]] * rows, dtype=torch.float64),
        "step": torch.tensor(7.0),
        "none": torch.zeros(0, 2),
        "flags": torch.tensor([True, False, True]),
    }


def bounds(rows: int, size: int, rank: int) -> tuple[int, int]:
    each = -(-rows // size)
    return min(rank * each, rows), min((rank + 1) * each, rows)


def write(
    folder: Path, whole: dict[str, Tensor], size: int, parted: tuple[str, ...] = ("weight", "bias", "odd")
) -> Path:
    """As ``size`` processes write it, each its rows of what is ``parted``, the first one all else."""
    written = []
    for rank in range(size):
        own = {}
        for name, value in whole.items():
            if name in parted:
                start, stop = bounds(len(value), size, rank)
                own[name] = Rows(value[start:stop], start, tuple(value.shape))
            elif not rank:
                own[name] = Rows(value, 0, tuple(value.shape))
        written.append(write_shard(folder / shard_name("stage0", rank, size), own, SAID))
    write_index(folder / "stage0.index.json", written, SAID)
    return folder / "stage0.index.json"


def bits(value: Tensor) -> tuple[Any, ...]:
    return value.dtype, tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=st.integers(1, 17), size=st.integers(1, 5), others=st.integers(1, 5))
def test_any_number_of_processes_reads_what_another_wrote(
    tmp_path_factory: pytest.TempPathFactory, rows: int, size: int, others: int
) -> None:
    whole = tensors(rows)
    index = write(tmp_path_factory.mktemp("shards"), whole, size)
    with open_shards(index) as shards:
        shards.need_written()
        assert shards.index.metadata == SAID
        assert {name: bits(shards.rows(name)) for name in shards.index.tensors} == {
            k: bits(v) for k, v in whole.items()
        }
        for name in ("weight", "bias", "odd"):
            parts = [shards.rows(name, bounds(rows, others, rank)) for rank in range(others)]
            assert [len(p) for p in parts] == [b - a for a, b in (bounds(rows, others, r) for r in range(others))]
            assert bits(torch.cat(parts)) == bits(whole[name])


def edit_index(change: Callable[[dict[str, Any]], object], *, sign: bool = False) -> Callable[[Path], None]:
    """Change the index; ``sign``: with the digest that fits, as who wants to mislead would."""

    def edit(index: Path) -> None:
        content = json.loads(index.read_text())
        digest = content.pop("sha256")
        change(content)
        if sign:
            from collapsekit.io.shards import _digest_of_index

            digest = _digest_of_index(content)
        index.write_text(json.dumps({**content, "sha256": digest}))

    return edit


def flip(index: Path) -> None:
    shard = index.parent / shard_name("stage0", 1, 2)
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)


def other_shard(index: Path) -> None:
    """Whole, and of another number."""
    write_shard(
        index.parent / shard_name("stage0", 1, 2), {"weight": Rows(torch.zeros(2, 3), 3, (5, 3))}, {"number": "2"}
    )


def other_shape(index: Path) -> None:
    shard = index.parent / shard_name("stage0", 0, 2)
    with safe_open(str(shard), framework="pt") as file:
        metadata, kept = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping
    save_file({**kept, "weight": kept["weight"].T.contiguous()}, str(shard), metadata)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edit_index(lambda c: c["metadata"].update(number="9")), "is not what was written"),
        (edit_index(lambda c: c.update(more=1), sign=True), "Extra inputs"),
        (
            edit_index(lambda c: c["shards"][0].update(file="../stage0-00000-of-00002.safetensors"), sign=True),
            "another name",
        ),
        (edit_index(lambda c: c["shards"][0].update(file="/etc/passwd"), sign=True), "another name"),
        (edit_index(lambda c: c["tensors"]["weight"]["pieces"].pop(), sign=True), "rows are missing"),
        (
            edit_index(lambda c: c["tensors"]["weight"]["pieces"].reverse(), sign=True),
            "rows are missing, or there twice",
        ),
        (edit_index(lambda c: c["tensors"]["weight"]["pieces"][0].update(shard=7), sign=True), "not there"),
        (edit_index(lambda c: c["tensors"]["weight"].update(dtype="torch.load"), sign=True), "no known dtype"),
        (edit_index(lambda c: c["tensors"]["weight"].update(shape=[-5, 3]), sign=True), "greater than or equal to 0"),
        (edit_index(lambda c: c["tensors"]["step"].update(pieces=[]), sign=True), "one place"),
        (
            edit_index(lambda c: c["tensors"]["weight"].update(shape=[5, 4]), sign=True),
            "other rows than the index says",
        ),
        (lambda index: index.write_text("[]"), "is not what was written"),
        (lambda index: index.write_text("{"), "Expecting"),
        (flip, "the content of stage0-00001-of-00002.safetensors is not what was written"),
        (other_shard, "the content of stage0-00001-of-00002.safetensors is not what was written"),
        (other_shape, "the content of stage0-00000-of-00002.safetensors is not what was written"),
    ],
)
def test_what_is_not_what_was_written_is_refused(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    index = write(tmp_path, tensors(5), 2)
    damage(index)
    with pytest.raises(ValueError, match=said), open_shards(index) as shards:  # noqa: PT012 - where it shows differs
        shards.need_written()
        for name in shards.index.tensors:
            shards.rows(name)


def test_a_pipe_in_the_place_of_an_index_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "stage0.index.json")
    with pytest.raises(OSError, match="not a regular file"):
        read_index(tmp_path / "stage0.index.json")
