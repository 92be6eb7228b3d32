"""What people hand over by mistake, and paths that are no files."""

from __future__ import annotations

import functools
import io
import json
import os
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.hostile.assemble import called, good_bytes, named, plain, tensors, torch_zip
from tests.hostile.catalogue import add, read, refused, touch

SHORT: dict[str, tuple[bytes, str]] = {
    "empty_file": (b"", "empty"),
    "one_byte": (b"\x80", "not a checkpoint"),
    "text": (b"hello, world\n", "not a checkpoint"),
    "lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "web_page": (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
    "json_text": (b'{"error": "Repository not found"}', "JSON"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
    "one_numpy_array": (b"\x93NUMPY\x01\0" + bytes(100), "array"),
    "zeros": (bytes(4096), "not a checkpoint"),
    "executable": (b"\x7fELF\x02\x01\x01" + bytes(57), "program"),
    "windows_executable": (b"MZ" + bytes(100), "not a checkpoint"),
    "python_source": (b"import os\nos.system('touch canary')\n", "not a checkpoint"),
    "escapes": (b"\x1b]0;owned\x07\x1b[31m\n::error::x", "not a checkpoint"),
    "protobuf_onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.0.0", "not a checkpoint"),
}
for key, (content, says) in SHORT.items():

    def _short(folder: Path, content: bytes = content) -> Path:
        (folder / "m.pt").write_bytes(content)
        return folder / "m.pt"

    add(_short, key, says=says)


@refused("pipe")
def pipe(folder: Path) -> Path:
    """A FIFO: to open it is to wait for ever."""
    os.mkfifo(folder / "m.pt")
    return folder / "m.pt"


@refused("link")
def link_to_itself(folder: Path) -> Path:
    """A symbolic link that leads back to itself."""
    (folder / "m.pt").symlink_to(folder / "m.pt")
    return folder / "m.pt"


@refused("device")
def link_to_zeros(folder: Path) -> Path:
    """A symbolic link to a device without an end."""
    (folder / "m.pt").symlink_to("/dev/zero")
    return folder / "m.pt"


@refused("", missing=True)
def link_to_nothing(folder: Path) -> Path:
    """A symbolic link whose target is gone."""
    (folder / "m.pt").symlink_to(folder / "gone")
    return folder / "m.pt"


@refused("", missing=True)
def path_of_a_long_name(folder: Path) -> Path:
    """A name longer than any file system takes."""
    return folder / ("n" * 5000)


@refused("", missing=True)
def path_through_a_file(folder: Path) -> Path:
    """A file where a folder would have to be."""
    (folder / "m.pt").write_bytes(good_bytes())
    return folder / "m.pt" / "m.pt"


@read()
def path_with_escapes_and_markup(folder: Path) -> Path:
    """The file is sound; its name is not."""
    path = folder / "\x1b[31m[link=x]<b>\n::error::x%0A\u202e.pt"
    path.write_bytes(good_bytes())
    return path


@read()
def path_not_utf8(folder: Path) -> Path:
    """The file is sound; its name is no text."""
    path = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.pt"))
    path.write_bytes(good_bytes())
    return path


@read()
def path_that_looks_like_an_option(folder: Path) -> Path:
    """The file is sound; its name begins with a dash."""
    path = folder / "--help"
    path.write_bytes(good_bytes())
    return path


@refused("empty")
def refused_path_with_escapes(folder: Path) -> Path:
    """The same name, and a refusal that has to give it."""
    path = folder / "\x1b[31m[link=x]<b>\n::error::x%0A\u202e.pt"
    path.touch()
    return path


@refused("tar archive")
def tar_archive(folder: Path) -> Path:
    """torch.save before 0.1.10 wrote tar archives; this one holds a path out of the folder."""
    with tarfile.open(folder / "m.pt", "w") as tar:
        for name in ("pickle", "../../x"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return folder / "m.pt"


@refused("TorchScript")
def torchscript(folder: Path) -> Path:
    """Code and weights in one archive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "m.pt")
    return folder / "m.pt"


@refused(r"torch\.package")
def torch_package(folder: Path) -> Path:
    """Code, and pickles that name it."""
    with torch.package.PackageExporter(folder / "m.pt") as exporter:
        exporter.save_source_string("net", "raise SystemExit(1)")
        exporter.save_pickle("model", "model.pkl", {"w": torch.ones(1)})
    return folder / "m.pt"


@refused("neither torch.save")
def zip_of_something_else(folder: Path) -> Path:
    """A zip archive of a script."""
    with zipfile.ZipFile(folder / "m.pt", "w") as z:
        z.writestr("setup.py", "raise SystemExit(1)")
    return folder / "m.pt"


@refused("program|not a checkpoint")
def executable_of_this_test(folder: Path) -> Path:
    """A whole program, by a link."""
    (folder / "m.pt").symlink_to(Path(sys.executable).resolve())
    return folder / "m.pt"


# --- torch.export ---------------------------------------------------------------------------------------------

Members = dict[str, bytes]


@functools.cache
def _source() -> Members:
    net = torch.nn.Linear(4, 1, bias=False)
    net.weight.data.copy_(torch.arange(4.0))
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net, (torch.ones(1, 4),)), buffer)
    with zipfile.ZipFile(buffer) as z:
        root = z.namelist()[0].split("/")[0]
        return {name.removeprefix(root + "/"): z.read(name) for name in z.namelist()}


def _exported(folder: Path, change: Callable[[Members], None] | None = None) -> Path:
    members = dict(_source())
    if change:
        change(members)
    with zipfile.ZipFile(folder / "m.pt2", "w") as z:
        for name, data in members.items():
            z.writestr(f"m/{name}", data)
    return folder / "m.pt2"


def _weight(checkpoint: Any) -> None:
    assert checkpoint.tensors["weight"].tolist() == [[0, 1, 2, 3]]


@read(_weight)
def exported_sound(folder: Path) -> Path:
    """Lawful: what the archives below differ from."""
    return _exported(folder)


def _int(n: int) -> dict[str, int]:
    return {"as_int": n}


_CONFIG = "data/weights/model_weights_config.json"


def _set(members: Members, meta: dict[str, Any] | None = None, **changes: Any) -> None:
    config = json.loads(members[_CONFIG])
    (entry,) = config["config"].values()
    entry.update(changes)
    entry["tensor_meta"].update(meta or {})
    members[_CONFIG] = json.dumps(config).encode()


@refused(r"posix\.system")
def exported_with_a_pickled_weight(folder: Path) -> Path:
    """use_pickle is set, and the weight is a torch file whose pickle acts."""

    def change(members: Members) -> None:
        acting = tensors((plain("x"), called(named("posix", "system"), plain(touch(folder)))))
        members["data/weights/weight_0"] = torch_zip(folder / "in.pt", acting).read_bytes()
        _set(members, use_pickle=True)

    return _exported(folder, change)


@refused("compiled")
def exported_compiled_only(folder: Path) -> Path:
    """A shared library in place of the weights."""

    def change(members: Members) -> None:
        for name in [n for n in members if n.startswith(("data/weights", "models", "data/constants"))]:
            del members[name]
        members["data/aotinductor/model/model.so"] = b"\x7fELF" + bytes(60)
        members["data/aotinductor/model/model.cpp"] = b"int main() {}"

    return _exported(folder, change)


EXPORTED: dict[str, tuple[Callable[[Members], object], str]] = {
    "path_above": (lambda m: _set(m, path_name="../../models/model.json"), "not there"),
    "path_missing": (lambda m: _set(m, path_name="weight_9"), "not there"),
    "path_a_number": (lambda m: _set(m, path_name=0), "not there|described wrongly"),
    "size_above_the_blob": (lambda m: _set(m, {"sizes": [_int(1 << 40), _int(4)]}), "claims"),
    "size_negative": (lambda m: _set(m, {"sizes": [_int(-1), _int(-4)]}), "non-negative"),
    "size_symbolic": (
        lambda m: _set(m, {"sizes": [{"as_expr": {"expr_str": "__import__('os')"}}]}),
        "described wrongly",
    ),
    "sizes_and_strides_disagree": (lambda m: _set(m, {"sizes": [_int(4)]}), "dimensions"),
    "offset_past_the_end": (lambda m: _set(m, {"storage_offset": _int(2)}), "claims"),
    "dtype_unknown": (lambda m: _set(m, {"dtype": 9999}), "9999"),
    "dtype_wide": (lambda m: _set(m, {"dtype": 8}), "claims"),
    "dtype_a_list": (lambda m: _set(m, {"dtype": [7]}), "described wrongly|dtype"),
    "config_not_json": (lambda m: m.update({_CONFIG: b"{nope"}), "not the JSON"),
    "config_nested": (lambda m: m.update({_CONFIG: b"[" * 200_000}), "not the JSON"),
    "config_a_list": (lambda m: m.update({_CONFIG: b'{"config": [1]}'}), "no config"),
    "config_missing": (lambda m: m.pop(_CONFIG), "without the weights"),
}
for key, (changed, says) in EXPORTED.items():

    def _exported_with(folder: Path, changed: Callable[[Members], object] = changed) -> Path:
        return _exported(folder, lambda members: changed(members) and None)

    add(_exported_with, f"exported_{key}", says=says)
