from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.checkpoint.formats.detect import locate
from collapsekit.checkpoint.formats.source import open_file
from collapsekit.checkpoint.formats.torch_export import _DTYPES, is_exported
from collapsekit.checkpoint.formats.zip_archive import open_archive
from tests.checkpoint.formats.reading import any_json, assert_same, bits, numbers, read, refused, rezipped


class Net(nn.Module):
    """Tied, strided and whole-number weights, buffers that are saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(4, 3)
        self.dec = nn.Linear(4, 3, bias=False)
        self.dec.weight = self.enc.weight
        self.strided = nn.Parameter(torch.arange(12.0).reshape(4, 3).T)
        self.brain = nn.Parameter(torch.ones(3, 4, dtype=torch.bfloat16) / 3)
        self.register_buffer("count", torch.tensor([5, 1 << 40]))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("one", torch.tensor(2.5, dtype=torch.float64))
        self.register_buffer("lost", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enc(x) + self.dec(x) + x @ self.strided.T + x @ self.brain.float().T
        return y * self.mask * self.one + self.count[0] + self.lost


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Net(), (torch.ones(2, 4),))
        torch.export.save(program, path)
    return path, dict(program.state_dict)


@pytest.fixture
def copy(saved: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> Path:
    path = tmp_path / "copy.pt2"
    path.write_bytes(saved[0].read_bytes())
    return path


def test_weights_are_those_of_the_program(saved: tuple[Path, dict[str, Tensor]]) -> None:
    path, want = saved
    assert {"enc.weight", "dec.weight", "strided", "brain", "count", "mask", "one"} <= set(want)
    assert_same(read(path), {k: v.detach() for k, v in want.items()}, order=False)
    found = locate(path)
    assert found.format == "torch.export archive"
    assert "lost" not in found.tensors
    assert found.tensors["strided"].chunks[0].stride == (1, 3)


def test_tied_weights_lie_in_one_place(saved: tuple[Path, dict[str, Tensor]]) -> None:
    tensors = locate(saved[0]).tensors
    assert tensors["enc.weight"].chunks[0].path == tensors["dec.weight"].chunks[0].path
    got = read(saved[0])
    assert bits(got["enc.weight"]) == bits(got["dec.weight"])


def test_the_program_itself_is_never_looked_at(copy: Path) -> None:
    rezipped(copy, lambda name, content: b"not JSON" if name.startswith("models/") else content)
    assert "strided" in read(copy)


def test_numbers_of_dtypes_are_those_of_torch() -> None:
    from torch._export.serde import schema, serialize

    known = {int(k): str(v).removeprefix("torch.") for k, v in serialize._SERIALIZE_TO_TORCH_DTYPE.items()}
    assert {n: name for n, name in known.items() if n in _DTYPES} == _DTYPES
    assert len(schema.ScalarType) >= len(_DTYPES)


def by_hand(path: Path, members: dict[str, bytes], form: bytes = b"pt2", root: str = "net/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}archive_format", form)
        for name, content in members.items():
            archive.writestr(root + name, content)
    return path


def number(n: int) -> dict[str, int]:
    return {"as_int": n}


def meta(dtype: Any = 7, sizes: Any = (2, 2), strides: Any = (1, 2), offset: int = 0) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "sizes": [number(n) for n in sizes],
        "strides": [number(n) for n in strides],
        "storage_offset": number(offset),
    }


CONFIG = "data/weights/net_weights_config.json"


def weights(entries: Any, raw: bytes = bytes(range(24))) -> dict[str, bytes]:
    return {CONFIG: any_json(entries), "data/weights/weight_0": raw}


def one(**changes: Any) -> dict[str, Any]:
    return {"config": {"w": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta(), **changes}}}


def test_a_strided_weight_by_hand(tmp_path: Path) -> None:
    raw = torch.arange(6.0)
    path = by_hand(tmp_path / "n.pt2", weights(one(tensor_meta=meta(offset=1)), bits(raw)))
    assert_same(read(path), {"w": raw.as_strided((2, 2), (1, 2), 1)})


@pytest.mark.parametrize("dtype", _DTYPES)
def test_every_dtype_by_hand(tmp_path: Path, dtype: int) -> None:
    base = numbers(getattr(torch, _DTYPES[dtype]), 6)
    path = by_hand(tmp_path / "n.pt2", weights(one(tensor_meta=meta(dtype)), bits(base)))
    assert_same(read(path), {"w": base.as_strided((2, 2), (1, 2))})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (one(tensor_meta=meta(dtype=17)), "a tensor of dtype number 17"),
        (one(tensor_meta=meta(sizes=(9, 9))), "of a storage of 24"),
        (one(tensor_meta=meta(sizes=(-1, 1))), "non-negative"),
        (one(tensor_meta=None), "'w' is described wrongly"),
        (one(tensor_meta={"dtype": 7}), "'w' is described wrongly"),
        (one(tensor_meta={**meta(), "sizes": [{"as_expr": "s0"}]}), "'w' is described wrongly"),
        (one(tensor_meta=meta(dtype=[])), "'w' is described wrongly"),
        (one(path_name="weight_1"), "its weight 'w' is not there"),
        ({"config": {"w": 7}}, "its weight 'w' is not there"),
        ({"config": []}, "its list of weights has no config"),
        ([], "its list of weights has no config"),
    ],
)
def test_lists_of_weights_that_lie(tmp_path: Path, entries: Any, words: str) -> None:
    refused(by_hand(tmp_path / "n.pt2", weights(entries)), words)


def pickled(obj: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getvalue()


def test_weights_stored_as_pickles(tmp_path: Path) -> None:
    path = tmp_path / "n.pt2"
    entry = one(use_pickle=True, tensor_meta=None)
    by_hand(path, weights(entry, pickled(torch.arange(3))))
    assert_same(read(path), {"w": torch.arange(3)})
    by_hand(path, weights(entry, pickled({"a": torch.arange(3)})))
    refused(path, "'w'", "a tensor stored as a pickled object")


OLD = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bool)}


@pytest.mark.parametrize("root", ["net/", "another/"])
def test_weights_in_one_pickle(tmp_path: Path, root: str) -> None:
    path = by_hand(tmp_path / "n.pt2", {"data/weights/model.pt": pickled(OLD)}, root=root)
    assert_same(read(path), OLD)
    assert locate(path).format == "torch.export archive"


def test_archives_from_before_there_was_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "n.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", pickled(OLD))
        archive.writestr("version", "1.1")
    assert_same(read(path), OLD)


def test_several_programs_and_none(tmp_path: Path) -> None:
    path = tmp_path / "n.pt2"
    twice = {**weights(one()), CONFIG.replace("net_", "other_"): json.dumps(one()).encode()}
    refused(by_hand(path, twice), "it holds several programs (net, other)")
    refused(by_hand(path, {**weights(one()), "data/weights/x.pt": pickled(OLD)}), "it holds several programs (net)")
    refused(by_hand(path, {"data/aotinductor/model.so": b"code"}), "compiled code without the weights by name")


def test_which_archives_are_programs(tmp_path: Path) -> None:
    def told(form: bytes) -> bool:
        return is_exported(open_archive(open_file(by_hand(tmp_path / "n", {}, form)).whole))

    assert told(b"pt2")
    assert not told(b"pt3")
    assert not told(b"pt2 and more")
