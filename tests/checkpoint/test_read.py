"""Reading weights: every common form, and every hostile one."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from collapsekit.checkpoint.formats.detect import locate
from collapsekit.checkpoint.formats.worker import as_data
from collapsekit.checkpoint.mmap import mapped
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.errors import ConfigError, RefusedError
from tests.hostile.forks import FORKS, fork_readers


@pytest.fixture(scope="module", autouse=True)
def _forked_readers() -> Iterator[None]:
    """Starting a reader takes longer than what it reads here; test_sandbox and test_worker are about that."""
    with fork_readers():
        yield
    FORKS.end()


def state() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(7)
    return {"enc.weight": torch.randn(3, 4, generator=g), "enc.bias": torch.arange(3.0), "n": torch.tensor(5)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def save_zip(obj: Any, path: Path) -> None:
    torch.save(obj, path)


def save_legacy(obj: Any, path: Path) -> None:
    torch.save(obj, path, _use_new_zipfile_serialization=False)


def save_safetensors(obj: Any, path: Path) -> None:
    safetensors.torch.save_file(obj, path)


def save_npz(obj: Any, path: Path) -> None:
    with path.open("wb") as f:
        np.savez(f, **{k: v.numpy() for k, v in obj.items()})


SAVERS = {
    "torch zip": save_zip,
    "torch legacy": save_legacy,
    "safetensors": save_safetensors,
    "npz": save_npz,
}
TORCH_SAVERS = [save_zip, save_legacy]


def read_here(path: Path) -> dict[str, Tensor]:
    """As read_checkpoint, in this process, for many files at a time."""
    found = as_data(locate(path))
    return mapped(found["files"], found["tensors"])


def refused(path: Path, *words: str) -> str:
    with pytest.raises(RefusedError) as e:
        read_checkpoint(path)
    text = str(e.value)
    assert e.value.exit_code == 3
    assert text.startswith(str(path)), text
    assert text.endswith(".")
    assert "\n" not in text
    for word in words:
        assert word in text.removeprefix(str(path)), text
    return text


# --- what is read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".pt", ".bin", ".ckpt", ".safetensors", ".npz", ""])
@pytest.mark.parametrize("kind", SAVERS)
def test_format_is_told_by_content_not_extension(tmp_path: Path, kind: str, extension: str) -> None:
    path = tmp_path / f"weights{extension}"
    SAVERS[kind](state(), path)
    if kind == "safetensors":  # the only format that sorts names
        got = read_checkpoint(path)
        assert same(dict(sorted(got.tensors.items())), dict(sorted(state().items())))
    else:
        got = read_checkpoint(path)
        assert same(got.tensors, state())
    assert (got.format, got.key, got.path) == (kind, None, path)
    assert got.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"3 tensors taken from the top level of a {kind} file" in got.note


@pytest.mark.parametrize("save", TORCH_SAVERS)
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "module"])
def test_nested_weights(tmp_path: Path, key: str, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "c.pt"
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    save({"epoch": 3, "optimizer": optimizer.state_dict(), key: state(), "rng_state": torch.zeros(9)}, path)
    got = read_checkpoint(path)
    assert got.key == key
    assert same(got.tensors, state())
    assert f"from {key!r}" in got.note


def test_doubly_nested_and_self_containing(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    obj: dict[str, Any] = {"model": {"state_dict": state()}}
    obj["model"]["module"] = obj  # a file can contain itself
    torch.save(obj, path)
    assert read_checkpoint(path).key == "model.state_dict"


def test_a_file_that_holds_only_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    obj: dict[str, Any] = {"epoch": 1}
    obj.update(model=obj, ema=obj, other=obj)
    torch.save(obj, path)
    refused(path, "no named tensors")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
def test_zip_files_are_mapped_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save(state(), path)
    got = read_checkpoint(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert same(got.tensors, state())


@pytest.mark.parametrize("ema", ["ema", "state_dict_ema", "model_ema"])
def test_main_weights_win_over_ema_twin_and_the_note_says_so(tmp_path: Path, ema: str) -> None:
    path = tmp_path / "c.pt"
    twin = {k: v + 1 for k, v in state().items()}
    torch.save({ema: twin, "state_dict": state()}, path)
    got = read_checkpoint(path)
    assert same(got.tensors, state())
    assert f"EMA weights that stand beside them under {ema!r}" in got.note
    torch.save({ema: {"module": twin, "decay": 0.99}, "epoch": 1}, path)
    alone = read_checkpoint(path)
    assert alone.key == f"{ema}.module"
    assert same(alone.tensors, twin)


def test_one_unknown_key_and_several_state_dicts_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"my_network": state(), "epoch": 2}, path)
    assert read_checkpoint(path).key == "my_network"
    torch.save({"audio": state(), "image": {"w": torch.ones(2)}, "optimizer": {"m": torch.ones(1)}}, path)
    got = read_checkpoint(path)
    assert got.key is None
    assert list(got.tensors) == ["audio.enc.weight", "audio.enc.bias", "audio.n", "image.w"]
    assert "joined from 'audio', 'image'" in got.note


def test_entries_that_are_no_tensors_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({**state(), "_extra_state": {"scale": 2.0}, "version": "1"}, path)
    got = read_checkpoint(path)
    assert same(got.tensors, state())
    assert "2 entries without a tensor left out" in got.note


def test_tied_parameters_and_module_state_dict(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    path = tmp_path / "c.pt"
    torch.save(OrderedDict(net.named_parameters(remove_duplicate=False)), path)  # Parameters, not tensors
    got = read_checkpoint(path)
    assert same(got.tensors, {k: v.detach() for k, v in net.named_parameters(remove_duplicate=False)})
    assert not any(t.requires_grad for t in got.tensors.values())


def test_writing_to_a_read_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    for save in SAVERS.values():
        save(state(), path)
        before = path.read_bytes()
        for tensor in read_checkpoint(path).tensors.values():
            tensor.add_(100)
        assert path.read_bytes() == before


@pytest.fixture
def lightning_hparams() -> Iterator[type]:
    """A stand-in with the module path under which Lightning pickles its hyper-parameters."""
    names = ["lightning", "lightning.fabric", "lightning.fabric.utilities", "lightning.fabric.utilities.data"]
    made = [n for n in names if n not in sys.modules]
    for name in made:
        sys.modules[name] = types.ModuleType(name)
    cls = type("AttributeDict", (dict,), {"__module__": names[-1]})
    sys.modules[names[-1]].AttributeDict = cls  # type: ignore[attr-defined]
    yield cls
    for name in made:
        del sys.modules[name]


@pytest.mark.parametrize("save", TORCH_SAVERS)
def test_lightning_and_harmless_bookkeeping(
    tmp_path: Path, lightning_hparams: type, save: Callable[[Any, Path], None]
) -> None:
    path = tmp_path / "c.ckpt"
    obj = {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{k}": v for k, v in state().items()},
        "hyper_parameters": lightning_hparams(width=64, inner={"p": 0.1}),
        "args": argparse.Namespace(lr=0.1, out=Path("runs/1")),
        "best": np.float64(0.93),
        "rng": np.arange(4),
    }
    save(obj, path)
    got = read_checkpoint(path)
    assert (got.key, next(iter(got.tensors))) == ("state_dict", "model.enc.weight")  # prefixes are kept
    assert "a Lightning torch" in got.note


def test_stand_ins_are_gone_after_reading(tmp_path: Path) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))
    path = tmp_path / "c.pt"
    torch.save({"w": torch.ones(1), "args": argparse.Namespace(a=1)}, path)
    read_checkpoint(path)
    assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_npz_dtypes_order_and_what_is_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    a = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    np.savez(path, a=a, s=np.float64(2.5), h=np.array([1], dtype=np.float16), words=np.array(["x"]))
    got = read_checkpoint(path)
    assert list(got.tensors) == ["a", "s", "h"]
    np.testing.assert_array_equal(got.tensors["a"].numpy(), a)
    assert got.tensors["s"].shape == ()
    assert got.tensors["h"].dtype == torch.float16
    assert "1 entry without a tensor" in got.note


def test_checksumless_torch_file_is_read_and_said(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    got = read_checkpoint(path)
    assert same(got.tensors, state())
    assert "no checksums" in got.note


# --- what is refused ------------------------------------------------------------------------------------------


class Payload:
    """Creates a file when unpickled by anything that executes reduce calls."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("save", [*TORCH_SAVERS, lambda o, p: p.write_bytes(pickle.dumps(o, 4))])
def test_a_pickle_that_acts_is_named_and_not_executed(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path, target = tmp_path / "evil.pt", tmp_path / "created"
    save({"state_dict": {"w": torch.ones(1) if save in TORCH_SAVERS else 1}, "x": Payload(target)}, path)
    text = refused(path, "nothing of it was executed")
    assert f"{os.mkdir.__module__}.mkdir" in text
    assert not target.exists()
    torch.load(path, weights_only=False) if save in TORCH_SAVERS else pickle.loads(path.read_bytes())
    assert target.exists()  # the payload was live


@pytest.mark.parametrize("save", TORCH_SAVERS)
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 1}])
def test_pickled_module_is_refused_with_its_classes(
    tmp_path: Path, save: Callable[[Any, Path], None], wrap: Callable[[nn.Module], Any]
) -> None:
    path = tmp_path / "model.pt"
    save(wrap(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), path)
    refused(path, "torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear", "state_dict()")


def test_stand_in_cannot_be_used_to_reach_its_real_class(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    pkl = b"\x80\x02}X\x01\x00\x00\x00wcpathlib\nPath\nX\x04\x00\x00\x00/etc\x85Rs."
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("a/data.pkl", pkl)
        z.writestr("a/version", "3\n")
    refused(path, "pickled Python objects (pathlib.Path)")


@pytest.mark.filterwarnings("ignore")
def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    refused(path, "TorchScript", "state_dict()")


def rezip(source: Path, target: Path, compression: int = zipfile.ZIP_STORED, double: str = "") -> None:
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(target, "w", compression) as b:
        for info in a.infolist():
            b.writestr(info.filename, a.read(info.filename))
            if double and info.filename.endswith(double):
                b.writestr(info.filename.replace("data.pkl", "DATA.pkl"), b"other")


@pytest.mark.parametrize("save", [save_zip, save_npz])
def test_compressed_member(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    save({"zeros": torch.zeros(1 << 20)}, tmp_path / "w.pt")
    rezip(tmp_path / "w.pt", tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pt").stat().st_size < (tmp_path / "w.pt").stat().st_size / 100
    refused(tmp_path / "bomb.pt", "is compressed")
    rezip(tmp_path / "w.pt", tmp_path / "stored.pt")
    assert read_checkpoint(tmp_path / "stored.pt").tensors["zeros"].numel() == 1 << 20


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("double", ["version", "data.pkl"])
def test_duplicate_member(tmp_path: Path, double: str) -> None:
    torch.save(state(), tmp_path / "w.pt")
    rezip(tmp_path / "w.pt", tmp_path / "twice.pt", double=double)
    refused(tmp_path / "twice.pt", "two members named")


def test_overlapping_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as z:
        for name in ("data.pkl", "data/0", "data/1"):
            z.writestr(f"a/{name}", bytes(100))
    raw = bytearray((tmp_path / "w.pt").read_bytes())
    for sizes_at in (raw.index(b"PK\x03\x04") + 14, raw.index(b"PK\x01\x02") + 16):  # CRC-32 and both sizes
        raw[sizes_at : sizes_at + 12] = struct.pack("<3L", 0, 200, 200)
    (tmp_path / "w.pt").write_bytes(raw)
    refused(tmp_path / "w.pt", "overlap")


@pytest.mark.parametrize("save", [save_zip, save_npz])
def test_flipped_byte_in_weights(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "w.pt"
    weights = torch.arange(64.0)
    save({"w": weights}, path)
    raw = bytearray(path.read_bytes())
    at = bytes(raw).index(weights.numpy().tobytes())
    raw[at + 17] ^= 0x10
    path.write_bytes(raw)
    if save is save_zip:  # torch itself does not notice
        assert not torch.equal(torch.load(path, weights_only=True)["w"], weights)
    refused(path, "was damaged", "CRC")


@pytest.mark.parametrize("kind", SAVERS)
def test_truncation_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    whole, path = tmp_path / "whole", tmp_path / "cut.pt"
    SAVERS[kind](state(), whole)
    raw = whole.read_bytes()
    for end in sorted({*range(0, len(raw), max(1, len(raw) // 40)), 1, 2, 9, len(raw) - 1}):
        path.write_bytes(raw[:end])
        with pytest.raises(RefusedError, match=r"^\S+/cut\.pt [^\n]+\.$"):
            read_here(path)


@pytest.mark.parametrize("kind", SAVERS)
def test_any_damage_is_refused_or_leaves_tensors_never_another_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.pt"
    SAVERS[kind](state(), path)
    raw = path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(150):
        hurt = bytearray(raw)
        for at in rng.integers(0, min(len(raw), 900), rng.integers(1, 4)):
            hurt[at] = rng.integers(256)
        path.write_bytes(hurt)
        with contextlib.suppress(RefusedError):
            assert all(isinstance(t, Tensor) for t in read_here(path).values())


def test_object_array_in_npz(tmp_path: Path) -> None:
    target = tmp_path / "created"
    np.savez(tmp_path / "w.npz", a=np.array([Payload(target)], dtype=object))
    refused(tmp_path / "w.npz", "Python objects", "np.savez")
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"\xef\xbb\xbf<HTML>", "web page"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"cos\nsystem\n(S'true'\ntR.", "not a checkpoint"),
        (b"PK\x05\x06" + bytes(18), "zip archive"),
        (struct.pack("<Q", 4000) + b'{"a":', "truncated"),
        (b"\x80", "not a checkpoint"),
    ],
)
def test_files_handed_over_by_mistake_are_named(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    refused(path, word)


def test_other_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as z:
        z.writestr("readme.txt", "hello")
    refused(tmp_path / "w.pt", "neither torch.save nor np.savez")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    refused(tmp_path, "directory")
    os.mkfifo(tmp_path / "pipe.pt")
    refused(tmp_path / "pipe.pt", "pipe")
    refused(Path("/dev/zero"), "device")
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "gone")
    for missing in (tmp_path / "gone.pt", tmp_path / "dangling.pt", "a\0b"):
        with pytest.raises(ConfigError) as e:
            read_checkpoint(missing)
        assert e.value.exit_code == 2


@pytest.mark.parametrize("obj", [torch.ones(2), [1, 2], {"epoch": 1}, {1: torch.ones(1)}, {}, None])
def test_no_named_tensors(tmp_path: Path, obj: Any) -> None:
    torch.save(obj, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "no named tensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda: torch.ones(2, device="meta"),
    ],
)
def test_tensors_without_plain_values(tmp_path: Path, make: Callable[[], Tensor]) -> None:
    torch.save({"odd": make()}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "'odd'", "dense")


def test_broadcast_tensor_that_would_fill_memory(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(1 << 40), "mask": torch.ones(1).expand(64, 64)}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "'w'", str(1 << 40))
    torch.save({"mask": torch.ones(1).expand(64, 64)}, tmp_path / "w.pt")
    assert read_checkpoint(tmp_path / "w.pt").tensors["mask"].shape == (64, 64)


def test_archive_root_need_not_be_the_file_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    assert same(read_checkpoint(tmp_path / "w.pt").tensors, state())
