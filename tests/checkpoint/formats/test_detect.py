from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from collapsekit.checkpoint.formats import detect as module
from collapsekit.checkpoint.formats.detect import FOLDERS, FORMATS, UnreadableError, locate
from collapsekit.checkpoint.formats.layout import Odd
from collapsekit.errors import ConfigError
from tests.checkpoint.formats.reading import DTYPES, numbers, refused, rezipped
from tests.hostile.assemble import named, plain, tensor, torch_zip

W = {"a": torch.arange(3.0), "b": torch.ones(2)}


def saved(path: Path, obj: Any, **options: Any) -> Path:
    torch.save(obj, path, **options)
    return path


# --- which format ---------------------------------------------------------------------------------------------


def by_format(folder: Path) -> dict[str, Path]:
    """A file of each kind, under names that say nothing."""
    paths = {f.name: folder / f"f{i}" for i, f in enumerate(FORMATS)}
    saved(paths["torch zip"], W)
    saved(paths["torch legacy"], W, _use_new_zipfile_serialization=False)
    save_file(W, paths["safetensors"])
    with paths["npz"].open("wb") as stream:
        np.savez(stream, **{k: v.numpy() for k, v in W.items()})
    paths["sharded safetensors"] = folder / "x.safetensors.index.json"
    paths["sharded safetensors"].write_text('{"weight_map": {"a": "f4", "b": "f4"}}')
    buffer = io.BytesIO()
    torch.save(W, buffer)
    with zipfile.ZipFile(paths["torch.export archive"], "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/weights/model.pt", buffer.getvalue())
    return paths


def test_each_kind_is_told_by_its_content_and_by_one_reader_alone(tmp_path: Path) -> None:
    paths = by_format(tmp_path)
    assert paths["safetensors"].name == "f4"
    for name, path in paths.items():
        found = locate(path)
        assert found.format == name
        assert list(found.tensors) == ["a", "b"]
        assert (found.key, found.names) == (None, [])
        assert all(p.parent == tmp_path for p in found.files)
        candidate = module._candidate(module.open_file(path))
        assert next(f.name for f in FORMATS if f.sniff(candidate)) == name


def test_kinds_of_directories_are_those_the_notes_name(tmp_path: Path) -> None:
    assert "torch.distributed.checkpoint directory" in FOLDERS


# --- what is said of what was taken ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "note"),
    [
        (W, "2 tensors taken from the top level of a torch zip file."),
        ({"a": W["a"]}, "1 tensor taken from the top level of a torch zip file."),
        ({"model": W, "epoch": 3}, "2 tensors taken from 'model' of a torch zip file."),
        (
            {"pytorch-lightning_version": "2", "state_dict": W},
            "2 tensors taken from 'state_dict' of a Lightning torch zip",
        ),
        ({"one": W, "two": W}, "4 tensors taken from the top level of a torch zip file, joined from 'one', 'two'."),
        (
            {"model": W, "ema": W},
            "under 'ema' were left out (`model.weights: ema` takes them).",
        ),
        ({**W, "epoch": 1}, "; 1 entry without a tensor left out."),
        ({**W, "epoch": 1, "x": 2}, "; 2 entries without a tensor left out."),
        (
            {"state_dict": W, "when": np.float64(1)},
            "; objects of other classes (numpy._core.multiarray.scalar, numpy.dtype) were left out unread.",
        ),
    ],
)
def test_the_note(tmp_path: Path, obj: Any, note: str) -> None:
    assert note in locate(saved(tmp_path / "w", obj)).note


def test_the_note_of_what_carries_no_checksums(tmp_path: Path) -> None:
    paths = by_format(tmp_path)
    missing = "; the file carries no checksums, so damage would go unseen."
    for name, path in paths.items():
        assert (missing in locate(path).note) == (name in ("safetensors", "sharded safetensors", "torch legacy"))
    assert locate(paths["sharded safetensors"]).note.startswith(
        "2 tensors taken from the top level of a sharded safetensors file; read from 1 shards"
    )
    assert "of a torch.export archive." in locate(paths["torch.export archive"]).note


# --- what a pickle names --------------------------------------------------------------------------------------


def naming(path: Path, *names: str) -> Path:
    """A sound file of one tensor whose pickle names these beside it."""
    parts = b"".join(plain(str(i)) + named(*name.rsplit(".", 1)) + b"s" for i, name in enumerate(names))
    return torch_zip(path, b"\x80\x02}" + plain("w") + tensor() + b"s" + parts + b".")


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch._tensor._rebuild_from_type_v2",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.FloatStorage",
        "torch.storage.UntypedStorage",
        "torch.bfloat16",
        "torch.float8_e4m3fn",
        "torch.uint16",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "collections.OrderedDict",
        "collections.defaultdict",
        "builtins.set",
        "__builtin__.bytes",
        "builtins.bytearray",
        "_codecs.encode",
    ],
)
def test_what_plain_tensors_name_is_not_told(tmp_path: Path, name: str) -> None:
    assert locate(naming(tmp_path / "w", name)).names == []


def test_what_tensors_of_every_dtype_name_is_not_told(tmp_path: Path) -> None:
    every = {str(dtype): numbers(dtype, 2) for dtype in DTYPES}
    assert locate(saved(tmp_path / "w", {**every, "dtypes": [v.dtype for v in every.values()]})).names == []


@pytest.mark.parametrize(
    "name",
    [
        "gone.Class",
        "argparse.Namespace",
        "numpy.dtype",
        "numpy._core.multiarray._reconstruct",
        "torch.nn.modules.Linear",
    ],
)
def test_other_classes_are_told_and_the_weights_taken(tmp_path: Path, name: str) -> None:
    found = locate(naming(tmp_path / "w", "collections.OrderedDict", name))
    assert found.names == [name]
    assert f"objects of other classes ({name}) were left out unread" in found.note


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "nt.system",
        "subprocess.Popen",
        "builtins.eval",
        "__builtin__.exec",
        "builtins.__import__",
        "importlib.import_module",
        "runpy.run_path",
        "pickle.loads",
        "torch.load",
        "torch.hub.load",
        "torch.serialization.load",
        "socket.socket",
        "ctypes.CDLL",
        "operator.attrgetter",
        "numpy.load",
        "types.CodeType",
        "pip._internal.main",
    ],
)
def test_a_file_that_names_dangerous_code_is_refused_whole(tmp_path: Path, name: str) -> None:
    e = refused(naming(tmp_path / "w", "gone.Class", name), f"names {name} in its pickle", "nothing of it was executed")
    assert isinstance(e, UnreadableError)
    assert (e.format, e.names, e.pickled) == ("torch zip", ["gone.Class", name], True)


def test_only_the_first_names_are_listed(tmp_path: Path) -> None:
    note = locate(naming(tmp_path / "w", *(f"gone.C{i}" for i in range(7)))).note
    assert "(gone.C0, gone.C1, gone.C2, gone.C3, gone.C4 and 2 more)" in note


# --- refusals -------------------------------------------------------------------------------------------------


def test_a_refusal_knows_the_format_and_the_names(tmp_path: Path) -> None:
    e = refused(saved(tmp_path / "m", nn.Linear(1, 1)), "holds pickled Python objects (torch.nn.modules.linear.Linear)")
    assert isinstance(e, UnreadableError)
    assert (e.format, e.pickled) == ("torch zip", True)
    e = refused(saved(tmp_path / "n", {"epoch": 1}), "holds no named tensors")
    assert isinstance(e, UnreadableError)
    assert (e.format, e.names, e.pickled) == ("torch zip", [], False)
    assert (UnreadableError("x").format, UnreadableError("x").names, UnreadableError("x").exit_code) == ("", [], 3)


def test_damage_names_the_format_and_what_the_pickle_named_before_it(tmp_path: Path) -> None:
    cut = naming(tmp_path / "w", "collections.OrderedDict", "gone.Class")
    rezipped(cut, lambda name, content: content[:-1] if name == "data.pkl" else content)
    e = refused(cut, "is not a sound torch zip file (its pickle breaks off", "; its pickle names gone.Class)")
    assert isinstance(e, UnreadableError)
    assert (e.format, e.names, e.pickled) == ("torch zip", ["gone.Class"], False)
    (tmp_path / "z").write_bytes(cut.read_bytes()[:-1])
    refused(tmp_path / "z", "is not a sound zip file (")
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(pickle.dumps(1))
    refused(tmp_path / "dcp", "is not a sound torch.distributed.checkpoint directory (")


@pytest.mark.parametrize(
    ("odd", "remedy"),
    [
        ("sparse tensor", "save a dense, unquantized model."),
        ("torch.distributed.tensor.DTensor", "gather it with .full_tensor() first"),
        ("wrapper subclass", "gather it with .full_tensor() first"),
        ("a conjugated or negated view", "save it with .resolve_conj().resolve_neg()."),
    ],
)
def test_odd_tensors_among_the_weights(tmp_path: Path, odd: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "w", W)
    monkeypatch.setattr(module, "load_torch_zip", lambda *_: {"net.w": Odd(odd)})
    e = refused(path, f"has a tensor 'net.w' that is not stored as plain dense numbers ({odd}): ", remedy)
    assert getattr(e, "format", None) == "torch zip"


def test_tensors_that_claim_more_than_the_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLACK", 1000)
    path = saved(tmp_path / "w", {"w": torch.ones(1).expand(300)})
    size = path.stat().st_size
    assert locate(path).tensors["w"].bytes == 1200
    saved(path, {"w": torch.ones(1).expand(size)})
    refused(path, "has a tensor 'w' of shape", "more than the file's", "with that tensor .clone()d")
    base = torch.ones(100)
    tied = saved(tmp_path / "t", {f"w{i}": base for i in range(64)})
    assert len(locate(tied).tensors) == 64  # tied ones count each
    monkeypatch.setattr(module, "_CLAIMS", 1)
    refused(tied, "more than the file's")


def test_torchscript_and_packages_name_their_classes(tmp_path: Path) -> None:
    def archive(*members: str) -> Path:
        with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as file:
            for member in members:
                file.writestr(member, "x" * 100)
        return tmp_path / "z"

    script = archive("m/data.pkl", "m/constants.pkl", "m/code/__torch__/net.py", "m/code/__torch__/a/b.py", "m/x.py")
    e = refused(script, "is a TorchScript archive", "(__torch__.net, __torch__.a.b)")
    assert isinstance(e, UnreadableError)
    assert (e.format, e.names, e.pickled) == ("TorchScript", ["__torch__.net", "__torch__.a.b"], True)
    package = archive("p/.data/extern_modules", "p/net/model.py", "p/model/model.pkl")
    e = refused(package, "is a torch.package", "net/model.py")
    assert isinstance(e, UnreadableError)
    assert (e.format, e.names, e.pickled) == ("torch.package", ["net/model.py"], False)
    # Neither without the other is a script: what follows is told of an ordinary archive.
    refused(archive("m/data.pkl", "m/constants.pkl"), "is compressed")


def test_other_archives_are_told_with_what_they_hold(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("notes/readme.txt", "x")
    e = refused(tmp_path / "z", "neither torch.save nor np.savez wrote (it holds 'notes/readme.txt')")
    assert not isinstance(e, UnreadableError)
    (tmp_path / "t").write_text("plain text")
    refused(tmp_path / "t", "is not a checkpoint that can be read")
    with pytest.raises(ConfigError):
        locate(tmp_path / "gone")


def test_what_a_directory_holds_is_told_by_the_file_s_name(tmp_path: Path) -> None:
    save_file(W, tmp_path / "model.safetensors")
    found = locate(tmp_path)
    assert (found.format, list(found.files)) == ("safetensors", [tmp_path / "model.safetensors"])
    (tmp_path / "model.safetensors").write_bytes(b"\x05" + bytes(7) + b'{"a":')
    refused(tmp_path, f"{tmp_path / 'model.safetensors'} is not a sound safetensors file")


def test_averages_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    odd = {"a": torch.eye(3).to_sparse(), "b": torch.ones(2)}
    found = locate(saved(tmp_path / "ckpt.pt", {"model": W, "ema": odd}))
    assert found.averaged is None
    assert set(found.tensors) == {"a", "b"}
    assert locate(saved(tmp_path / "both.pt", {"model": W, "ema": W})).averaged is not None
