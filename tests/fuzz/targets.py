"""What is fuzzed: for each target the inputs to begin with, how they are changed, and what must hold of any of them."""

from __future__ import annotations

import json
import pickle
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from collapsekit.config.load import load_config
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.report.base import Contract
from collapsekit.report.diagnosis import Report
from tests.fuzz import gate, mutate, seeds
from tests.fuzz.invariant import check_archive, check_locate, check_sentence
from tests.hostile.assemble import FLOATS, MAGIC, SYSTEM, VERSION, good_members
from tests.resealing import resealed

Mutator = Callable[[bytes, random.Random, int, mutate.Mutate], bytes]


@dataclass(frozen=True)
class Target:
    """``one`` takes a folder of its own and an input, and raises where an invariant is broken."""

    one: Callable[[Path, bytes], None]
    seeds: Callable[[], list[bytes]]
    changed: Mutator


# --- whole zip archives: torch zip, .npz and .pt2 -------------------------------------------------------------


def _archive(folder: Path, data: bytes) -> None:
    path = folder / "m.pt"
    path.write_bytes(data)
    check_archive(path)
    check_locate(path)


def _archives() -> list[bytes]:
    configs = [json.dumps(c).encode() for c in seeds.pt2_configs()]
    made = [
        f
        for with_sums in (True, False)
        for f in (*seeds.torch_zips(with_sums), *seeds.npzs(with_sums), *(seeds.pt2(c, with_sums) for c in configs))
    ]
    return [*made, *seeds.saved_by_torch()]


# --- pickles: as the data.pkl of a torch zip, as the fourth pickle of a legacy file, and whole legacy files ----

_ZIP, _FOURTH, _WHOLE = 0, 1, 2  # an input's first byte, modulo 3
_BEFORE = b"".join(pickle.dumps(p, 2) for p in (MAGIC, VERSION, SYSTEM))
_BEHIND = pickle.dumps(["0"], 2) + struct.pack("<q", 4) + FLOATS


def _pickle(folder: Path, data: bytes) -> None:
    path = folder / "m.pt"
    kind, content = (data[0] % 3, data[1:]) if data else (_ZIP, b"")
    if kind == _ZIP:
        members = [("data.pkl", content), *good_members()[1:]]
        path.write_bytes(seeds.zipped([(f"archive/{n}", d) for n, d in members]))
    else:
        path.write_bytes(content if kind == _WHOLE else _BEFORE + content + _BEHIND)
    check_locate(path)


def _pickles() -> list[bytes]:
    zips = [bytes([_ZIP]) + p for p in seeds.pickles()]
    return [*zips, bytes([_FOURTH]) + seeds.legacy_weights(), *(bytes([_WHOLE]) + f for f in seeds.legacy())]


def _pickle_changed(data: bytes, rng: random.Random, most: int, own: mutate.Mutate) -> bytes:
    kind = data[:1] if rng.random() < 0.95 else bytes([rng.randrange(3)])
    return kind + mutate.pickled(data[1:], rng, most - 1, own)


# --- arrays: safetensors headers and files, the shard index, .npy headers, the list of weights in a .pt2 -------

_HEADER, _FILE, _INDEX, _ARRAY, _CONFIG = range(5)  # an input's first byte, modulo 5
_NAMES = ("h.safetensors", "f.safetensors", "model.safetensors.index.json", "a.npz", "m.pt2")


def _array(folder: Path, data: bytes) -> None:
    if not (folder / seeds.SHARDS[0]).exists():
        for shard, written in seeds.shards().items():
            (folder / shard).write_bytes(written)
    kind, content = (data[0] % 5, data[1:]) if data else (_FILE, b"")
    if kind == _HEADER:
        content = seeds.safetensors(content)
    elif kind == _ARRAY:
        content = seeds.zipped([("a.npy", content)], checksums=False)
    elif kind == _CONFIG:
        content = seeds.pt2(content, checksums=False)
    path = folder / _NAMES[kind]
    path.write_bytes(content)
    check_locate(path)


def _arrays() -> list[bytes]:
    headers = [json.dumps(h).encode() for h in seeds.safetensors_headers()]
    of = {
        _HEADER: headers,
        _FILE: [seeds.safetensors(h) for h in headers],
        _INDEX: [json.dumps(i).encode() for i in seeds.indices()],
        _ARRAY: seeds.npys(),
        _CONFIG: [json.dumps(c).encode() for c in seeds.pt2_configs()],
    }
    return [bytes([kind]) + s for kind, some in of.items() for s in some]


def _array_changed(data: bytes, rng: random.Random, most: int, own: mutate.Mutate) -> bytes:
    kind = data[0] % 5 if data else _FILE
    if kind == _ARRAY:
        return bytes([kind]) + mutate.npy(data[1:], rng, most - 1, own)
    if kind == _FILE:
        return bytes([kind]) + own(data[1:], most - 1)
    return bytes([kind]) + mutate.json_text(data[1:], rng, most - 1, own)


# --- the .metadata of torch.distributed.checkpoint, beside a sound file of pieces ------------------------------


def _distributed(folder: Path, data: bytes) -> None:
    (folder / seeds.PIECES).write_bytes(seeds.pieces())
    (folder / ".metadata").write_bytes(data)
    check_locate(folder)


# --- collapsekit.yaml and [tool.collapsekit] in pyproject.toml -------------------------------------------------

_TOKENS = (
    b"& * << : ? ! | > [ ] { } , # % - --- ... ' \" \\ ~ @ ` &a *a 0x 0b1 1:1:1 1e999 .inf .nan -.5 0o7 !!int".split()
)
_TOKENS += [b"\n", b"\n  ", b"\t", b"\xef\xbb\xbf", b"\x00", b"\\U00110000", b"\xe2\x80\xae", b"%YAML 1.1"]
_TOKENS += b"model modalities fusion head call task data subsets label group plugins probes seed base origin".split()


def _config(folder: Path, data: bytes) -> None:
    path = folder / ("collapsekit.yaml", "pyproject.toml")[data[0] % 2 if data else 0]
    path.write_bytes(data[1:])
    try:
        config = load_config(path)
    except ConfigError as e:
        check_sentence(str(e), path)
        return
    json.dumps(config.model_dump(mode="json"), allow_nan=False)


def _configs() -> list[bytes]:
    return [*(b"\0" + c.encode() for c in seeds.CONFIGS), b"\1" + seeds.PYPROJECT.encode()]


def _config_changed(data: bytes, rng: random.Random, most: int, own: mutate.Mutate) -> bytes:
    """Lines and tokens moved about; bytes now and then."""
    kind, text = data[:1] or b"\0", data[1:]
    if rng.random() < 0.4:
        return kind + own(text, most - 1)
    if rng.random() < 0.4:
        lines = text.split(b"\n")
        at, start = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[at : at + rng.randrange(2)] = [rng.choice((b"", b" ", b"- ")) + lines[start]]
        return kind + b"\n".join(lines)[: most - 1]
    at = rng.randrange(len(text) + 1)
    return kind + (text[:at] + rng.choice(_TOKENS) + text[at + rng.randrange(4) :])[: most - 1]


# --- report.json; what is read is written and read again ------------------------------------------------------


def _report(folder: Path, data: bytes) -> None:
    path = folder / "report.json"
    for text in (data, *_resealed(Report, data)):
        _one_report(path, text)


def _resealed(kind: type[Contract], data: bytes) -> list[bytes]:
    """The same with its digests made again, where it is JSON, so that what is behind them is reached."""
    try:
        return [resealed(kind, json.loads(data)).encode()]
    except (ValueError, RecursionError, UnicodeDecodeError):
        return []


def _one_report(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        report = Report.load(path)
    except RefusedError as e:
        check_sentence(str(e), path)
        return
    text = report.to_json()
    json.loads(text, parse_constant=_no_number)
    assert Report.from_json(text) == report


def _no_number(name: str) -> float:
    raise AssertionError(f"{name} was written")


TARGETS = {
    "archive": Target(_archive, _archives, mutate.zipped),
    "pickles": Target(_pickle, _pickles, _pickle_changed),
    "arrays": Target(_array, _arrays, _array_changed),
    "distributed": Target(_distributed, lambda: [seeds.metadata(), seeds.metadata(planned=False)], mutate.pickled),
    "config": Target(_config, _configs, _config_changed),
    "report": Target(_report, lambda: [json.dumps(r).encode() for r in seeds.reports()], mutate.json_text),
    "gate": Target(gate.one, gate.inputs, gate.changed),
}
