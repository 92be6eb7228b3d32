"""Snapshots in shards, of one process here: which of two is gone on from, and what is left of one that is cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.shards import Rows
from collapsekit.repairs.training import snapshots as place
from collapsekit.repairs.training.behaviour import Behaviour
from collapsekit.repairs.training.snapshots import Snapshots

IDENTITY = {"method": "finetune"}


def state(number: int) -> dict[str, Tensor]:
    return {"now/w": torch.full((4, 2), float(number)), "optimizer/0.step": torch.tensor(float(number))}


def rows(tensors: dict[str, Tensor]) -> dict[str, Rows]:
    return {k: Rows(v, 0, tuple(v.shape)) for k, v in tensors.items()}


def half(name: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
    return (2, 4) if name == "now/w" else None


def kept(folder: Path, notes: list[str] | None = None, **more: Any) -> Snapshots:
    return Snapshots(folder, IDENTITY, note=(notes if notes is not None else []).append, **more)


def save(folder: Path, *numbers: int) -> Snapshots:
    made = kept(folder)
    for number in numbers:
        made.save_shares(0, rows(state(number)), {"epoch": number})
    return made


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_the_newest_comes_back_whole_or_by_rows(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    assert names(tmp_path) == {
        f"stage0{slot}{rest}" for slot in ("", "b") for rest in (".index.json", "-00000-of-00001.safetensors")
    }
    found = kept(tmp_path).load(0)
    assert found is not None
    assert found[1] == {"epoch": 3}
    assert all(torch.equal(found[0][k], v) for k, v in state(3).items())
    some = kept(tmp_path).load_shares(0, half)
    assert some is not None
    assert torch.equal(some[0]["now/w"], state(3)["now/w"][2:])
    assert torch.equal(some[0]["optimizer/0.step"], torch.tensor(3.0))
    assert names(tmp_path) == {p.name for p in tmp_path.iterdir()}  # nothing more is left of looking


def test_a_file_and_shards_take_turns(tmp_path: Path) -> None:
    """As with --fsdp and without: the newest counts, and the other kind in its place goes."""
    kept(tmp_path).save(0, state(1), {"epoch": 1})
    kept(tmp_path).save(0, state(2), {"epoch": 2})
    some = kept(tmp_path).load_shares(0, half)
    assert some is not None
    assert torch.equal(some[0]["now/w"], state(2)["now/w"][2:])
    kept(tmp_path).save_shares(0, rows(state(3)), {"epoch": 3})
    assert names(tmp_path) == {"stage0b.safetensors", "stage0.index.json", "stage0-00000-of-00001.safetensors"}
    assert kept(tmp_path).load(0)[1] == {"epoch": 3}  # type: ignore[index]
    made = kept(tmp_path)
    made.save(0, state(4), {"epoch": 4})
    made.save(0, state(5), {"epoch": 5})
    assert names(tmp_path) == {"stage0.safetensors", "stage0b.safetensors"}
    assert kept(tmp_path).load(0)[1] == {"epoch": 5}  # type: ignore[index]


@pytest.mark.parametrize("whole", [True, False])
def test_where_a_shard_is_damaged_the_other_one_is_gone_on_from(tmp_path: Path, whole: bool) -> None:
    save(tmp_path, 1, 2)
    shard = tmp_path / "stage0b-00000-of-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    notes: list[str] = []
    found = kept(tmp_path, notes).load(0) if whole else kept(tmp_path, notes).load_shares(0, half)
    assert found is not None
    assert found[1] == {"epoch": 1}
    (note,) = notes
    assert "the content of stage0b-00000-of-00001.safetensors is not what was written" in note
    shard.unlink()
    (tmp_path / "stage0-00000-of-00001.safetensors").unlink()
    with pytest.raises(RefusedError, match="No such file"):
        kept(tmp_path).load(0)


def test_what_is_cut_off_while_it_writes_leaves_the_other_one_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = save(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(place, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.save_shares(0, rows(state(3)), {"epoch": 3})
    notes: list[str] = []
    again = kept(tmp_path, notes)
    found = again.load(0)
    assert found is not None
    assert found[1] == {"epoch": 2}
    assert not notes
    again.save_shares(0, rows(state(4)), {"epoch": 4})
    assert kept(tmp_path).load(0)[1] == {"epoch": 4}  # type: ignore[index]
    again.clear()
    assert not tmp_path.exists()


def test_shards_of_more_processes_that_were_here_are_removed(tmp_path: Path) -> None:
    made = save(tmp_path, 1, 2)
    left = tmp_path / "stage0-00004-of-00007.safetensors"
    left.write_bytes(b"of before")
    (tmp_path / "stage0-notes-of-mine.safetensors").write_bytes(b"of the user's")
    made.save_shares(0, rows(state(3)), {"epoch": 3})
    assert not left.exists()
    assert (tmp_path / "stage0-notes-of-mine.safetensors").exists()


def test_they_are_of_this_repair_and_of_a_model_that_answers_alike(tmp_path: Path) -> None:
    answers = Behaviour("cpu", "float32", {"outputs": torch.ones(2, 3)})
    kept(tmp_path, behaviour=answers).save_shares(0, rows(state(1)), {"epoch": 1})
    found = kept(tmp_path, behaviour=answers).load_shares(0, half)
    assert found is not None
    assert found[0].keys() == state(1).keys()
    with pytest.raises(ConfigError, match="of another repair"):
        Snapshots(tmp_path, {"method": "kd"}).load_shares(0, half)
    other = Behaviour("cpu", "float32", {"outputs": torch.zeros(2, 3)})
    with pytest.raises(ConfigError, match="was made with a model whose"):
        kept(tmp_path, behaviour=other).load_shares(0, half)
