"""What the fuzzers begin with: sound files of every format, made by code, as bytes."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import torch

from collapsekit.report.diagnosis import Report
from tests.hostile.assemble import (
    FLOATS,
    MAGIC,
    SYSTEM,
    VERSION,
    called,
    floats,
    good_members,
    legacy_weights,
    mapping,
    named,
    plain,
    storage,
    tensor,
    tensors,
)
from tests.hostile.zipper import Member, archive

SHARDS = ("a.safetensors", "b.safetensors")
PIECES = "__0_0.distcp"  # where the numbers of the distributed checkpoint lie
_OURS = "torch.distributed.checkpoint.metadata"


def zipped(members: list[tuple[str, bytes]], checksums: bool = True) -> bytes:
    """An archive; without checksums its members may be changed freely."""
    return archive([Member(name, data, crc=None if checksums else 0) for name, data in members])


def pickles() -> list[bytes]:
    """Pickles of checkpoints, as data.pkl holds them: plain, nested, with objects of other classes, of protocol 4."""
    parameter = called(named("torch._utils", "_rebuild_parameter"), tensor(), plain(True), plain({}))
    subclass = called(
        named("torch._tensor", "_rebuild_from_type_v2"),
        named("torch._utils", "_rebuild_tensor_v2"),
        named("torch.nn.parameter", "Parameter"),
        b"(" + tensor()[len(named("torch._utils", "_rebuild_tensor_v2")) + 1 : -1],  # its arguments alone
        plain({}),
    )
    named_dtype = called(
        named("torch._utils", "_rebuild_tensor_v3"),
        storage(kind="UntypedStorage", numel=16),
        *(plain(p) for p in (0, (2,), (1,), False, {})),
        named("torch", "float64"),
    )
    ordered = called(named("collections", "OrderedDict"), b"](" + plain(("w", 1)) + b"e")
    built = named("my.models", "Net") + b")\x81" + mapping((plain("state_dict"), plain({}))) + b"b"
    sparse = called(named("torch._utils", "_rebuild_sparse_tensor"), plain(1), plain((1, 2)))
    inner = mapping((plain("a.w"), tensor()), (plain("a.b"), tensor(shape=(2, 2), stride=(2, 1))))
    return [
        tensors((plain("w"), tensor())),
        tensors((plain("w"), parameter), (plain("v"), subclass), (plain("u"), named_dtype)),
        tensors((plain("state_dict"), inner), (plain("model_ema"), inner), (plain("epoch"), plain(3))),
        tensors((plain("audio"), inner), (plain("image"), inner), (plain("optimizer"), sparse)),
        tensors((plain("w"), tensor()), (plain("o"), ordered), (plain("net"), built)),
        pickle.dumps({"w": [1, 2.5, None, True, b"x", {1, 2}, frozenset((3,)), ("t",)], 3: {"x": 1 << 70}}, 4),
        pickle.dumps({"w": ["a" * 300, b"b" * 300, -1, 1 << 40, 1e300]}, 0),
    ]


def legacy() -> list[bytes]:
    """Whole files as torch.save wrote them before 1.6."""
    swapped = {**SYSTEM, "little_endian": False}
    parts = [legacy_weights(), pickle.dumps(["0"], 2), struct.pack("<q", 4), FLOATS]
    return [
        b"".join(pickle.dumps(p, 2) for p in (MAGIC, VERSION, system)) + b"".join(parts) for system in (SYSTEM, swapped)
    ]


def torch_zips(checksums: bool = True) -> list[bytes]:
    """Whole files as torch.save writes them."""
    rest = good_members()[1:]
    return [
        zipped([(f"archive/{n}", d) for n, d in [("data.pkl", pickled), *rest]], checksums) for pickled in pickles()
    ]


def npys() -> list[bytes]:
    """Arrays as np.save writes them."""
    arrays = [
        np.arange(4, dtype="<f4"),
        np.asfortranarray(np.arange(6, dtype=">i8").reshape(2, 3)),
        np.float64(3),
        np.zeros((0, 5), "?"),
        np.array(["a", "bc"]),
        np.zeros(2, [("x", "<f4"), ("y", "<i2")]),
    ]
    made = []
    for array in arrays:
        stream = io.BytesIO()
        np.save(stream, array)
        made.append(stream.getvalue())
    return made


def npzs(checksums: bool = True) -> list[bytes]:
    """Whole .npz files."""
    each = npys()
    return [zipped([(f"{i}.npy", data) for i, data in enumerate(some)], checksums) for some in (each[:4], each)]


def pt2_configs() -> list[dict[str, Any]]:
    """Lists of weights as torch.export writes them."""
    meta = {
        "dtype": 7,
        "sizes": [{"as_int": 2}, {"as_int": 2}],
        "strides": [{"as_int": 2}, {"as_int": 1}],
        "storage_offset": {"as_int": 0},
    }
    entry = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": meta}
    pickled = {**entry, "path_name": "weight_1", "use_pickle": True}
    return [{"config": {"l.w": entry, "l.b": pickled}}, {"config": {"l.w": {**entry, "tensor_meta": None}}}]


def pt2(config: bytes, checksums: bool = True) -> bytes:
    """A torch.export archive around a list of weights."""
    members = [
        ("m/archive_format", b"pt2"),
        ("m/data/weights/model_weights_config.json", config),
        ("m/data/weights/weight_0", FLOATS),
        ("m/data/weights/weight_1", zipped([(f"archive/{n}", d) for n, d in _only_a_tensor()])),
    ]
    return zipped(members, checksums)


def _only_a_tensor() -> list[tuple[str, bytes]]:
    return [("data.pkl", b"\x80\x02" + tensor() + b"."), *good_members()[1:]]


def safetensors_headers() -> list[dict[str, Any]]:
    """Headers beside sixteen bytes of numbers."""
    return [
        {"w": floats()},
        {"__metadata__": {"format": "pt"}, "a": floats([1], 0, 4), "b": floats([3, 1], 4, 16)},
        {"e": floats([0, 7], 16, 16), "s": floats([], 0, 4), "h": floats([6], 4, 16, "BF16")},
        {"z": floats([1, 2], 0, 16, "C64"), "f": floats([0], 0, 0, "F8_E4M3")},
    ]


def safetensors(header: bytes, data: bytes = FLOATS) -> bytes:
    """A whole safetensors file."""
    return struct.pack("<Q", len(header)) + header + data


def shards() -> dict[str, bytes]:
    """Files beside an index."""
    made = (safetensors(json.dumps({name: floats()}).encode()) for name in ("w", "v"))
    return dict(zip(SHARDS, made, strict=True))


def indices() -> list[dict[str, Any]]:
    """Indices over SHARDS."""
    return [{"metadata": {"total_size": 32}, "weight_map": {"w": SHARDS[0], "v": SHARDS[1]}}]


def pieces() -> bytes:
    """The file that metadata() refers to: one tensor of four floats, twice."""
    return _piece() * 2


def _piece() -> bytes:
    return zipped([(f"archive/{n}", d) for n, d in _only_a_tensor()])


def _object(name: str, **state: bytes) -> bytes:
    """Opcodes of a dataclass of torch.distributed.checkpoint, as pickle writes it."""
    return named(_OURS, name) + b")\x81" + mapping(*((plain(k), v) for k, v in state.items())) + b"b"


def _size(*numbers: int) -> bytes:
    return called(named("torch", "Size"), plain(numbers))


def metadata(planned: bool = True) -> bytes:
    """.metadata of {"a": {"w": eight floats in two pieces}, "e": none}."""
    one = len(_piece())
    stored, chunks = [], []
    for i in (0, 1):
        index = _object("MetadataIndex", fqn=plain("a.w"), offset=_size(4 * i), index=plain(i))
        place = {"relative_path": plain(PIECES), "offset": plain(one * i), "length": plain(one)}
        stored.append((index, _object("_StorageInfo", **place)))
        chunks.append(_object("ChunkStorageMetadata", offsets=_size(4 * i), sizes=_size(4)))
    properties = _object("TensorProperties") + b"(" + named("torch", "float16") + plain(False) + b"tb"
    entries = [
        (plain("a.w"), _object("TensorStorageMetadata", chunks=b"](" + b"".join(chunks) + b"e", size=_size(8))),
        (plain("e"), _object("TensorStorageMetadata", chunks=b"]", size=_size(0, 3), properties=properties)),
        (plain("n"), _object("BytesStorageMetadata")),
    ]
    parts = {"state_dict_metadata": mapping(*entries), "storage_data": mapping(*stored)}
    if planned:
        parts["planner_data"] = plain({"a.w": ("a", "w"), "e": ("e",), "n": ("n",)})
    return b"\x80\x02" + _object("Metadata", **parts) + b"."


CONFIGS = (
    """\
model: {factory: "my:build", kwargs: {width: 64, deep: [1, 2.5, null, yes]}, checkpoint: ckpt.pt}
modalities:
  image: {encoder: encoders.image, scale: 255}
  audio: {encoder: encoders.audio, input: wav, pool: mean}
fusion: fusion
head: head
call: kwargs
task: classification
data: {path: data.npz, label: label}
""",
    """\
model: &m {factory: "my:build"}
subsets: [{modalities: [a, b], checkpoint: ab.pt, kwargs: &k {x: 1e-3, y: 0x10, z: 1:30, d: 2020-01-01}}]
modalities: {a: &d {encoder: e.a, pool: max}, b: {<<: *d, encoder: "e.b\\u00e9"}}
fusion: |
  f:input
data: {factory: 'my:loaders'}
""",
)
PYPROJECT = """\
[tool.collapsekit]
fusion = "fusion"
model = {factory = "my:build", kwargs = {width = 64, big = 0x7fff}}
modalities.image = {encoder = "encoders.image"}
modalities."audio" = {encoder = 'encoders.audio', scale = 1e3}
[tool.collapsekit.data]
path = \"\"\"data.npz\"\"\"
"""


def reports() -> list[dict[str, Any]]:
    """A report as schema version 1 had it, and as it is written now."""
    cited = {"probe": "vif", "definition": "d", "source": "s"}
    used = {**cited, "probe": "utilisation"}
    curve = {"x": [0, 1, "two"], "y": [1.5, 2, 3], "lower": [1, 1, 1], "upper": None, "x_label": "x", "y_label": "y"}
    results = [
        {"name": "vif.mean", "value": 4.2, "interval": [3.9, 4.6], "unit": "nats", **cited},
        {"name": "vif.curve", "modality": "audio", "versus": "image", "curve": curve, "note": "n", **cited},
        {"name": "vif.max", "skipped": "too few", **cited},
        {"name": "utilisation.prior_loss", "value": 2.0, **used},
        {"name": "utilisation.score", "modality": "audio", "value": 0.97, "interval": [0.93, 1.0], **used},
        {"name": "utilisation.costs_now", "modality": "image", "value": 0.41, **used},
        {"name": "utilisation.costs_if_missing", "modality": "image", "versus": "audio", "value": 0.63, **used},
    ]
    for name, ratio in (("audio", 0.05), ("image", 0.9)):
        of = {"modality": name, **used}
        results += [
            {"name": "utilisation.alone_gain", "value": 1.0, **of},
            {"name": "utilisation.credit", "value": 0.5, **of},
        ]
        results.append({"name": "utilisation.ratio", "value": ratio, **of})
    audio = {"verdict": "collapsed", "score": 0.97, "interval": [0.93, 1.0], "reason": "r", "evidence": ["vif.mean"]}
    image = {"verdict": "used", "score": None, "costs_now": 0.41, "costs_if_missing": {"audio": 0.63}, "reason": "r"}
    subject = {"checkpoint": "c.pt", "sha256": "0" * 64, "modalities": ["image", "audio"], "task": "classification"}
    first: dict[str, Any] = {
        "schema_version": 1,
        "collapsekit": "0.1.0",
        "subject": {**subject, "metric": "accuracy", "split": "test", "examples": 1000, "seed": 0},
        "verdict": "collapsed",
        "summary": "s",
        "modalities": {"audio": audio, "image": image},
        "results": results,
        "settings": {"a": [1, {"b": None}]},
        "environment": {"torch": "2"},
    }
    return [first, json.loads(Report.from_data(first).to_json())]


def saved_by_torch() -> list[bytes]:
    """Files that torch itself wrote, zip and legacy."""
    made = []
    for zipfile_too in (True, False):
        stream = io.BytesIO()
        torch.save(
            {"w": torch.arange(4.0), "b": torch.ones(2, 3).t()}, stream, _use_new_zipfile_serialization=zipfile_too
        )
        made.append(stream.getvalue())
    return made


def members(data: bytes) -> list[tuple[str, bytes]] | None:
    """The members of an archive as zipfile reads them, or None."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            return [(i.filename, z.read(i)) for i in z.infolist()[:64] if i.file_size < 1 << 20]
    except Exception:  # noqa: BLE001 - of mutated archives zipfile raises whatever it likes
        return None
