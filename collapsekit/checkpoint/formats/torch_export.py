"""torch.export's .pt2 archives, located: the weights' raw bytes and the JSON beside them, never the program.

``torch.export.load`` falls back to a full unpickle; nothing of it is called.
"""

from __future__ import annotations

import re
from typing import Any

from collapsekit.checkpoint.formats.layout import DamagedError, Extent, Loaded, Located, Odd, dense
from collapsekit.checkpoint.formats.safetensors_npz import check_count, parse_json, read_json
from collapsekit.checkpoint.formats.source import Opened, read_bytes
from collapsekit.checkpoint.formats.torch_save import load_torch_zip
from collapsekit.checkpoint.formats.zip_archive import Archive, open_archive

_FORMAT_MEMBER = "archive_format"
_BEFORE_2_8 = "serialized_state_dict.pt"  # torch.export.save before the archive had weights of its own
_CONFIG = re.compile(r"data/weights/([^/]+)_weights_config\.json")
_PICKLED = re.compile(r"data/weights/([^/]+)\.pt")
# torch._export.serde.schema.ScalarType
_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}


def is_exported(archive: Archive) -> bool:
    """Tell whether it is an archive of torch.export.save (or AOTInductor's packager)."""
    form = archive.member(_FORMAT_MEMBER)
    if form is not None and form.length == 3:
        return read_bytes(form, 3, _FORMAT_MEMBER) == b"pt2"
    return _BEFORE_2_8 in archive.members


def load_exported(archive: Archive, file: Opened, names: dict[str, None]) -> Loaded:
    """Locate the tensors of the one exported program in an archive.

    Args:
        archive: the zip archive.
        file: the file it is.
        names: filled with what its pickles name.

    Returns:
        The place of each tensor, by name, and which files were read.

    Raises:
        DamagedError: where it cannot be read as one.
    """
    below = {name.removeprefix(archive.root): extent for name, extent in archive.members.items()}
    old = [e for n, e in archive.members.items() if n == _BEFORE_2_8] or [
        e for n, e in below.items() if _PICKLED.fullmatch(n)
    ]
    configs = [n for n in below if _CONFIG.fullmatch(n)]
    if len(configs) + len(old) > 1:
        models = ", ".join(m[1] for m in map(_CONFIG.fullmatch, configs) if m)[:200]
        raise DamagedError(f"it holds several programs ({models}), and which one is meant cannot be told")
    if configs:
        content: Any = _by_config(below, configs[0], names)
    elif old:
        content = load_torch_zip(open_archive(old[0]), names)
    else:
        raise DamagedError("it holds compiled code without the weights by name")
    return Loaded(content, [file.path], list(names), checksummed=archive.checksummed)


def _by_config(below: dict[str, Extent], config: str, names: dict[str, None]) -> dict[str, Located | Odd]:
    text = parse_json(read_json(below[config], "its list of weights"), "its list of weights")
    entries = text.get("config") if isinstance(text, dict) else None
    if not isinstance(entries, dict):
        raise DamagedError("its list of weights has no config")
    check_count(len(entries), "weights")
    tensors: dict[str, Located | Odd] = {}
    for name, entry in entries.items():
        extent = below.get(f"data/weights/{entry.get('path_name')}") if isinstance(entry, dict) else None
        if extent is None:
            raise DamagedError(f"its weight {name[:60]!r} is not there")
        if entry.get("use_pickle") is True:  # a subclass of Tensor; a plain one all the same may lie in it
            inner = load_torch_zip(open_archive(extent), names)
            tensors[name] = inner if isinstance(inner, Located) else Odd("a tensor stored as a pickled object")
        else:
            tensors[name] = _raw(name, entry.get("tensor_meta"), extent)
    return tensors


def _raw(name: str, meta: Any, extent: Extent) -> Located | Odd:
    try:
        dtype = _DTYPES.get(meta["dtype"])
        shape = [n["as_int"] for n in meta["sizes"]]
        stride = [n["as_int"] for n in meta["strides"]]
        offset = meta["storage_offset"]["as_int"]
    except (KeyError, TypeError):
        raise DamagedError(f"its weight {name[:60]!r} is described wrongly") from None
    if dtype is None:
        return Odd(f"a tensor of dtype number {str(meta['dtype'])[:20]}")
    return dense(dtype, shape, stride, offset, extent)
