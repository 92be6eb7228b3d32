"""What is looked into, mapped, hashed and copied is one file: whoever changes it in between is noticed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from collapsekit.adapters.weights.load import load_weights
from collapsekit.checkpoint import describe as describe_module
from collapsekit.checkpoint import mmap as mapping
from collapsekit.checkpoint import read as module
from collapsekit.checkpoint.describe import describe
from collapsekit.checkpoint.formats.handles import one_look
from collapsekit.checkpoint.formats.worker import answer
from collapsekit.checkpoint.mmap import mapped_and_summed
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.checkpoint.sandbox import look_into
from collapsekit.errors import RefusedError

CHANGED = "changed while it was being read: wait until it is written, and try again"


def as_file(folder: Path, value: float) -> Path:
    save_file({"w": torch.full((2000,), value)}, folder / "w.safetensors")
    return folder / "w.safetensors"


def as_shards(folder: Path, value: float) -> Path:
    for name in "ab":
        save_file({name: torch.full((2000,), value)}, folder / f"model-{name}.safetensors")
    index = '{"weight_map": {"a": "model-a.safetensors", "b": "model-b.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def as_pieces(folder: Path, value: float) -> Path:
    dcp.save({"w": torch.full((2000,), value)}, checkpoint_id=folder / "dcp", no_dist=True)
    return folder / "dcp"


KINDS = {
    "file": (as_file, "w.safetensors"),
    "last shard": (as_shards, "model-b.safetensors"),
    "index": (as_shards, "model.safetensors.index.json"),
    "piece": (as_pieces, "dcp/__0_0.distcp"),
}


def replace(file: Path) -> None:
    """Another one in its place, the same but for what is in it."""
    other = file.with_name("other")
    shutil.copy2(file, other)
    other.write_bytes(b"\0" * other.stat().st_size)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)


def overwrite(file: Path, put_back: bool = True) -> None:
    """Other bytes in it, and the time of the last change put back."""
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\1\2\3\4")
    if put_back:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def extend(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"\0")


def shorten(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def looked_into(path: Path) -> dict[str, Any]:
    """As the child looks, in this process."""
    with one_look(patient=True):
        said = answer(path)
    if "found" not in said:
        raise RefusedError(str(said))
    found: dict[str, Any] = said["found"]
    return found


CHANGES: tuple[Callable[[Path], None], ...] = (replace, overwrite, extend, shorten, Path.unlink)
# Behind which step of reading the change comes.
SEAMS = {
    "looking": (module, "look_into"),
    "mapping": (mapping, "mapped"),
    "hashing": (mapping, "sha256_of_all"),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_between_the_steps_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, seam: str, change: Callable[[Path], None]
) -> None:
    make, name = KINDS[kind]
    path = make(tmp_path, 1.0)
    place, function = SEAMS[seam]
    found = looked_into(path)
    monkeypatch.setattr(module, "look_into", lambda _: found)  # in this process, as it costs less
    real = getattr(place, function)

    def then_changed(*args: Any) -> Any:
        done = real(*args)
        change(tmp_path / name)
        return done

    monkeypatch.setattr(place, function, then_changed)
    with pytest.raises(RefusedError, match=CHANGED if change is not Path.unlink else f"{CHANGED}|cannot be read"):
        read_checkpoint(path)


def test_a_description_is_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_file(tmp_path, 1.0)

    def looked(asked: Path) -> dict[str, Any]:
        found = look_into(asked)
        replace(path)
        return found

    monkeypatch.setattr(describe_module, "look_into", looked)
    assert CHANGED in str(describe(path).refused)
    torch.save(nn.Linear(1, 1), path)

    def refused(asked: Path) -> dict[str, Any]:
        try:
            return look_into(asked)
        finally:
            replace(path)

    monkeypatch.setattr(describe_module, "look_into", refused)
    found = describe(path)  # the names of one file and the digest of another would mislead
    assert "torch.nn.modules.linear.Linear" in found.names
    assert found.sha256 is None
    assert f"No SHA-256: {path} {CHANGED}" in str(found.refused)


def test_weights_are_those_that_were_hashed_when_they_are_loaded(tmp_path: Path) -> None:
    model = nn.Linear(2000, 1, bias=False)
    save_file({"weight": torch.ones(1, 2000)}, tmp_path / "w.safetensors")
    checkpoint = read_checkpoint(tmp_path / "w.safetensors")
    load_weights(model, checkpoint)
    (tmp_path / "w.safetensors").rename(tmp_path / "moved")
    load_weights(model, checkpoint)  # another name is no other file
    (tmp_path / "moved").rename(tmp_path / "w.safetensors")
    replace(tmp_path / "w.safetensors")
    load_weights(model, checkpoint)  # the old one is still mapped
    assert model.weight.min() == model.weight.max() == 1
    save_file({"weight": torch.ones(1, 2000)}, tmp_path / "w.safetensors")
    checkpoint = read_checkpoint(tmp_path / "w.safetensors")
    load_weights(model, checkpoint)
    overwrite(tmp_path / "w.safetensors", put_back=False)
    with pytest.raises(RefusedError, match=CHANGED):
        load_weights(model, checkpoint)


@pytest.fixture
def sigio_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.mark.usefixtures("sigio_ignored")
@pytest.mark.parametrize("way", ["replaced", "overwritten"])
def test_whoever_writes_all_the_time_is_noticed_or_did_no_harm(tmp_path: Path, way: str) -> None:
    """Two versions in turn, as fast as they can be written: what is read is one of them, digest and numbers alike."""
    contents = {}
    for value in (1.0, 2.0):
        contents[value] = as_file(tmp_path, value).read_bytes()
    path, go, stop, lock = tmp_path / "w.safetensors", threading.Event(), threading.Event(), threading.Lock()

    def write() -> None:
        while not stop.is_set():
            for content in contents.values():
                go.wait()
                lock.acquire()
                if way == "replaced":
                    (tmp_path / "next").write_bytes(content)
                    (tmp_path / "next").replace(path)
                else:
                    with path.open("r+b") as stream:
                        stream.write(content)
                lock.release()

    digests = {hashlib.sha256(content).hexdigest(): value for value, content in contents.items()}
    writer = threading.Thread(target=write)
    writer.start()
    outcomes = {"read": 0, "noticed": 0}
    try:
        for i in range(60):
            (go.clear if i % 4 == 0 else go.set)()  # now and then nobody writes
            try:
                said = looked_into(path)
                tensors, sha256 = mapped_and_summed(said["files"], said["tensors"])
                with lock:  # what is written after that is another matter
                    mapping.changed_in_place(said["files"])
                    values = tensors["w"].unique().tolist()
            except RefusedError as e:
                assert re.search(f"{CHANGED}|cannot be read|not a sound|open for writing", str(e))  # noqa: PT017
                outcomes["noticed"] += 1
                continue
            assert values == [digests[sha256]]
            outcomes["read"] += 1
    finally:
        stop.set()
        go.set()
        writer.join()
    assert min(outcomes.values()) > 0, outcomes
