from __future__ import annotations

import io
import pickle
import struct
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from collapsekit.checkpoint.formats import source as opened
from collapsekit.checkpoint.formats import torch_save as torchsaved
from collapsekit.checkpoint.formats.layout import DamagedError, Located, Odd
from collapsekit.checkpoint.formats.pickle_vm import Name, StandIn
from collapsekit.checkpoint.formats.source import open_file
from collapsekit.checkpoint.formats.torch_save import TorchStorage, load_torch_legacy, load_torch_zip, torch_calls
from collapsekit.checkpoint.formats.zip_archive import Archive, open_archive
from tests.checkpoint.formats.reading import DTYPES, assert_same, numbers, read, refused, rezipped, views
from tests.hostile.assemble import (
    MAGIC,
    SYSTEM,
    VERSION,
    called,
    named,
    plain,
    storage,
    tensor,
    tensors,
    torch_zip,
    tuple_of,
)

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(5)}


def save(obj: Any, path: Path, *, legacy: bool, protocol: int = 2) -> None:
    torch.save(obj, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch") / "weights.pt"


LEGACY = [d for d in DTYPES if d in torch.storage._dtype_to_storage_type_map()]  # all that torch can save so
both = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


# --- as torch.load reads it -----------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_views_of_storages_are_those_torch_load_gives(spot: Path, data: st.DataObject) -> None:
    weights: dict[str, Tensor] = {}
    legacy, protocol = data.draw(st.booleans()), data.draw(st.sampled_from(PROTOCOLS))
    for i in range(data.draw(st.integers(1, 3))):
        base = numbers(data.draw(st.sampled_from(LEGACY if legacy else DTYPES)), data.draw(st.integers(1, 40)), seed=i)
        for j in range(data.draw(st.integers(1, 3))):
            weights[f"{i}.{j}"] = data.draw(views(base))
    save(weights, spot, legacy=legacy, protocol=protocol)
    want = torch.load(spot, weights_only=protocol == 2)  # which takes no later protocol
    assert_same(want, weights)
    assert_same(read(spot), want)


@both
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(spot: Path, dtype: torch.dtype, legacy: bool) -> None:
    if legacy and dtype not in LEGACY:
        pytest.skip("torch itself cannot save it so")
    base = numbers(dtype, 30)
    weights = {
        "matrix": base.reshape(5, 6),
        "transposed": base.reshape(5, 6).T,
        "number": base[7],
        "none": base[:0].reshape(0, 3),
        "own": numbers(dtype, 1, seed=1).reshape(()),
    }
    save(weights, spot, legacy=legacy)
    assert_same(read(spot), torch.load(spot, weights_only=True))


@both
def test_strides_are_kept_and_not_laid_out_anew(spot: Path, legacy: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    weights = {"t": base.T, "s": base[::2, 1:4], "e": base[0].expand(3, 6)}
    save(weights, spot, legacy=legacy)
    got = read(spot)
    assert {k: v.stride() for k, v in got.items()} == {k: v.stride() for k, v in weights.items()}


def test_tied_tensors_share_memory(spot: Path) -> None:
    base = torch.arange(8.0)
    save({"a": base, "b": base.view(2, 4), "part": base[2:4], "other": torch.zeros(8)}, spot, legacy=False)
    got = read(spot)
    got["a"][3] = 99
    assert got["b"][0, 3] == 99
    assert got["part"].tolist() == [2, 99]
    assert got["other"].sum() == 0


@both
def test_parameters_buffers_and_attributes(spot: Path, legacy: bool) -> None:
    own = torch.arange(3.0)
    own.mark = "an attribute"  # type: ignore[attr-defined]
    known = nn.Parameter(torch.ones(2))
    known.mark = {"of": "a parameter"}  # type: ignore[attr-defined]
    weights = {
        "parameter": nn.Parameter(torch.arange(4.0)),
        "frozen": nn.Parameter(torch.arange(5), requires_grad=False),
        "known": known,
        "own": own,
        "grad": torch.ones(2, requires_grad=True),
        "buffer": nn.Buffer(torch.zeros(2)),
        "conjugate": torch.tensor([1 + 2j]),
    }
    save(weights, spot, legacy=legacy)
    assert_same(read(spot), {k: v.detach() for k, v in weights.items()})


@both
def test_a_module_s_state_dict_with_its_metadata(spot: Path, legacy: bool) -> None:
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    assert isinstance(state, OrderedDict)
    assert state._metadata  # type: ignore[attr-defined]
    save(state, spot, legacy=legacy)
    assert_same(read(spot), state)


@both
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_stands_beside_the_weights_is_plain_data_still(spot: Path, legacy: bool, protocol: int) -> None:
    beside = {
        "none": None,
        "words": ["a", b"\x00\xff", b"", bytearray(b"xy"), bytearray()],
        "size": torch.Size([2, 3]),
        "sets": [{1}, frozenset("a"), set()],
        "nested": [{"deep": ({"weights": WEIGHTS["w"]},)}],
        "dtype": torch.float32,
    }
    save({"state_dict": WEIGHTS, **beside}, spot, legacy=legacy, protocol=protocol)
    names: dict[str, None] = {}
    if legacy:
        content = load_torch_legacy(open_file(spot), names).content
    else:
        content = load_torch_zip(open_archive(open_file(spot).whole), names)
    assert content["words"] == beside["words"]
    assert content["size"] == (2, 3)
    assert [sorted(s) for s in content["sets"]] == [[1], ["a"], []]
    assert isinstance(content["nested"][0]["deep"][0]["weights"], Located) or legacy
    assert_same(read(spot), WEIGHTS)


def test_a_legacy_file_keeps_containers_that_contain_one_another(spot: Path) -> None:
    state: dict[str, Any] = {"w": torch.ones(2), "list": [torch.zeros(1)]}
    state["again"] = state["list"]
    state["self"] = state
    save(state, spot, legacy=True)
    content = load_torch_legacy(open_file(spot), {}).content
    assert content["self"] is content
    assert content["list"] is content["again"]
    assert isinstance(content["list"][0], Located)


@both
def test_a_tensor_alone_or_in_an_unknown_dict_is_located(spot: Path, legacy: bool) -> None:
    save(torch.ones(2), spot, legacy=legacy)
    refused(spot, "no named tensors")
    (spot.parent / "made_up.py").write_text("class D(dict): pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(spot.parent)
        import made_up  # type: ignore[import-not-found]

        save(made_up.D(w=torch.arange(2.0)), spot, legacy=legacy)
        patch.delitem(sys.modules, "made_up")
    assert_same(read(spot), {"w": torch.arange(2.0)})


# --- byte order -----------------------------------------------------------------------------------------------


def turned(raw: bytes, dtype: torch.dtype) -> bytes:
    """Each number's bytes the other way round; a complex number is two of them."""
    part = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return b"".join(raw[i : i + part][::-1] for i in range(0, len(raw), part))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_big_endian_numbers(spot: Path, dtype: torch.dtype) -> None:
    base = numbers(dtype, 12)
    weights = {"w": base.reshape(3, 4), "t": base.reshape(3, 4).T, "n": base[5], "s": base[1::3]}
    save(weights, spot, legacy=False)

    def change(name: str, content: bytes) -> bytes:
        return b"big" if name == "byteorder" else turned(content, dtype) if name == "data/0" else content

    rezipped(spot, change)
    assert_same(read(spot), weights)


def test_legacy_files_of_big_endian_machines(spot: Path) -> None:
    weights = torch.arange(4.0)
    save({"w": weights}, spot, legacy=True)
    raw = spot.read_bytes()
    at = raw.index(b"little_endian")
    at = raw.index(b"\x88", at)  # True
    spot.write_bytes(raw[:at] + b"\x89" + raw[at + 1 :])
    assert_same(read(spot), {"w": weights})  # torch writes the numbers little-endian on either
    assert_same(read(spot), torch.load(spot, weights_only=True))


def test_zip_files_from_before_byte_orders_were_told(spot: Path) -> None:
    save(WEIGHTS, spot, legacy=False)
    rezipped(spot, lambda name, content: None if name == "byteorder" else content)
    assert_same(read(spot), WEIGHTS)


# --- tensors that are not plain numbers -----------------------------------------------------------------------


class Sub(torch.Tensor):
    pass


def odd_of(path: Path, legacy: bool) -> Odd:
    if legacy:
        content = load_torch_legacy(open_file(path), {}).content
    else:
        content = load_torch_zip(open_archive(open_file(path).whole), {})
    assert isinstance(content["odd"], Odd), content["odd"]
    return content["odd"]


@both
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.eye(2).to_sparse(), "sparse tensor"),
        (lambda: torch.eye(2).to_sparse_csr(), "sparse tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "qtensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint32), "qtensor"),
        (lambda: torch.ones(2, 3, device="meta"), "meta tensor no storage"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "nested tensor"),
        (lambda: torch.ones(2).as_subclass(Sub), f"{__name__}.Sub"),
        (lambda: nn.Parameter(torch.ones(2).as_subclass(Sub)), f"{__name__}.Sub"),
        (lambda: nn.Parameter(torch.eye(2).to_sparse()), "sparse tensor"),
        (lambda: torch.tensor([1 + 2j]).conj(), "a conjugated or negated view"),
        (lambda: torch.tensor([1 + 2j]).conj().imag, "a conjugated or negated view"),
    ],
)
def test_odd_tensors_say_what_they_are_and_disturb_no_other(
    spot: Path, make: Callable[[], Tensor], what: str, legacy: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = make()
        try:
            save({"odd": odd, "model": WEIGHTS}, spot, legacy=legacy)
        except (NotImplementedError, AttributeError, TypeError) as e:
            pytest.skip(f"this torch does not save it: {e}")
    assert odd_of(spot, legacy).what == what
    assert_same(read(spot), WEIGHTS)


def located(kind: str = "float32") -> TorchStorage:
    from collapsekit.checkpoint.formats.layout import Extent

    return TorchStorage(kind, "0", Extent(Path("f"), 0, 64))


CALLS = torch_calls(torchsaved._view(False))
VIEW = (0, (2,), (1,))
V2, FROM_TYPE = Name("torch._utils", "_rebuild_tensor_v2"), "torch._tensor._rebuild_from_type_v2"


@pytest.mark.parametrize(
    ("function", "args", "what"),
    [
        ("torch._utils._rebuild_tensor_v2", (None, *VIEW), "a tensor without a storage"),
        ("torch._utils._rebuild_tensor_v2", (located("torch.QInt8Storage"), *VIEW), "a tensor of torch.QInt8Storage"),
        ("torch._utils._rebuild_wrapper_subclass", (), "wrapper subclass"),
        ("torch._utils._rebuild_device_tensor_from_numpy", (), "device tensor from numpy"),
        (FROM_TYPE, (V2, Name("torch.distributed.tensor", "DTensor"), (), {}), "torch.distributed.tensor.DTensor"),
        (FROM_TYPE, (V2, "torch.Tensor", (), {}), "a tensor of an unknown class"),
        (FROM_TYPE, (Name("torch", "other"), Name("torch", "Tensor"), (), {}), "torch.other"),
        (FROM_TYPE, ("no name", Name("torch", "Tensor"), (), {}), "torch.Tensor"),
        (FROM_TYPE, (Name("collections", "OrderedDict"), Name("torch", "Tensor"), (), {}), "collections.OrderedDict"),
        (
            FROM_TYPE,
            (Name("torch._utils", "_rebuild_sparse_tensor"), Name("torch", "Tensor"), (), {}),
            "sparse tensor",
        ),
    ],
)
def test_calls_that_give_no_plain_tensor(function: str, args: tuple[Any, ...], what: str) -> None:
    assert CALLS[function](args) == Odd(what)


def test_a_dtype_that_is_named_is_the_view_s(spot: Path) -> None:
    named_ = Name("torch", "int16")
    got = CALLS["torch._utils._rebuild_tensor_v3"]((located("uint8"), 3, (2,), (1,), False, {}, named_))
    assert got.dtype == "int16"
    assert got.chunks[0].offset == 6
    assert CALLS[FROM_TYPE]((V2, Name("torch", "Tensor"), (located(), *VIEW), {})).shape == (2,)


def test_a_view_that_is_rebuilt_of_itself_without_end(spot: Path) -> None:
    depth = 5000
    start = named("torch._tensor", "_rebuild_from_type_v2") + named("torch", "Tensor")
    endless = start * depth + plain(()) + b"\x87" * (depth - 1) + b"\x87"
    function = named("torch._tensor", "_rebuild_from_type_v2")
    torch_zip(spot, b"\x80\x02}" + plain("w") + function + endless + b"Rs.")
    refused(spot, "not stored as plain dense numbers")


@pytest.mark.parametrize(
    ("function", "args", "want"),
    [
        ("collections.OrderedDict", (), {}),
        ("collections.OrderedDict", ([["a", 1], ("b", 2), ((1,), 3)],), {"a": 1, "b": 2}),
        ("collections.defaultdict", (Name("builtins", "list"), {"a": 1}), {"a": 1}),
        ("builtins.set", ([1, 2],), [1, 2]),
        ("builtins.list", (), []),
        ("builtins.list", ("ab",), []),
        ("torch.Size", ((1, 2),), (1, 2)),
        ("_codecs.encode", ("\xff", "latin1"), b"\xff"),
        ("_codecs.encode", ("a", "rot13"), b""),
        ("_codecs.encode", (b"a", "latin1"), b""),
        ("builtins.bytes", (), b""),
        ("builtins.bytes", (1 << 40,), b""),
        ("builtins.bytearray", (b"ab",), b"ab"),
        ("__builtin__.bytearray", ("\xff", "latin-1"), b"\xff"),
    ],
)
def test_plain_calls(function: str, args: tuple[Any, ...], want: Any) -> None:
    assert CALLS[function](args) == want


# --- storages that are told wrongly ---------------------------------------------------------------------------

FLOAT = named("torch", "FloatStorage")


def stored(*parts: bytes) -> bytes:
    return b"\x80\x02" + tuple_of(*parts) + b"Q."


@pytest.mark.parametrize(
    ("pid", "words"),
    [
        ([plain("storage"), FLOAT, plain("0"), plain("cpu")], "no storage"),
        ([plain("module"), FLOAT, plain("0"), plain("cpu"), plain(4)], "no storage"),
        ([plain("storage"), plain("float"), plain("0"), plain("cpu"), plain(4)], "describes a storage wrongly"),
        ([plain("storage"), FLOAT, plain(0), plain("cpu"), plain(4)], "describes a storage wrongly"),
        ([plain("storage"), FLOAT, plain("0"), plain("cpu"), plain(-1)], "describes a storage wrongly"),
        ([plain("storage"), FLOAT, plain("0"), plain("cpu"), plain(True)], "describes a storage wrongly"),
        ([plain("storage"), FLOAT, plain("9"), plain("cpu"), plain(4)], "its storage '9' is not there"),
        ([plain("storage"), FLOAT, plain("0"), plain("cpu"), plain(5)], "'0' claims 5 float32 numbers in 16 bytes"),
    ],
)
def test_storages_in_a_zip_that_are_told_wrongly(spot: Path, pid: list[bytes], words: str) -> None:
    torch_zip(spot, stored(*pid))
    refused(spot, words)


def test_storages_in_a_zip_that_are_told_otherwise(spot: Path) -> None:
    torch_zip(spot, stored(plain(b"storage"), FLOAT, plain("0"), plain("cpu"), plain(4)))  # as Python 2 wrote it
    got = load_torch_zip(open_archive(open_file(spot).whole), {})
    assert isinstance(got, TorchStorage)
    assert got.extent is not None
    assert got.extent.length == 16
    torch_zip(spot, stored(plain("storage"), named("torch", "QInt8Storage"), plain("9"), plain("cpu"), plain(4)))
    assert load_torch_zip(open_archive(open_file(spot).whole), {}) == TorchStorage("torch.QInt8Storage", "9", None)


def test_an_archive_without_a_pickle() -> None:
    with pytest.raises(DamagedError, match=r"it has no data\.pkl"):
        load_torch_zip(Archive({}, True), {})


def test_a_byte_order_that_is_none(spot: Path) -> None:
    save(WEIGHTS, spot, legacy=False)
    rezipped(spot, lambda name, content: b"middle" if name == "byteorder" else content)
    refused(spot, "its byteorder is b'middle', neither little nor big")
    with pytest.raises(ValueError, match="Unknown endianness"):
        torch.load(spot, weights_only=True)


@pytest.mark.parametrize("other", [{"kind": "IntStorage"}, {"numel": 2}])
def test_a_storage_described_twice(spot: Path, other: dict[str, Any]) -> None:
    def both(**changes: Any) -> bytes:
        return tensors(
            (plain("a"), tensor(storage(), shape=(2,))), (plain("w"), tensor(storage(**changes), shape=(2,)))
        )

    torch_zip(spot, both())
    assert read(spot)["w"].tolist() == [0, 1]
    torch_zip(spot, both(**other))
    refused(spot, "its pickle describes the storage '0' twice, and differently")


def test_a_legacy_storage_described_twice(spot: Path) -> None:
    one, two = tensor(old_storage()), tensor(old_storage(kind=named("torch", "IntStorage")))
    legacy_file(spot, tensors((plain("a"), one), (plain("w"), one))[2:-1])
    assert list(read(spot)) == ["a", "w"]
    legacy_file(spot, tensors((plain("a"), one), (plain("w"), two))[2:-1])
    refused(spot, "its pickle describes the storage '0' as of two dtypes")


def legacy_file(
    path: Path,
    content: bytes,
    keys: bytes = plain(["0"]),
    tail: bytes = struct.pack("<q4f", 4, 0, 1, 2, 3),
    magic: Any = MAGIC,
    version: Any = VERSION,
) -> None:
    """Five pickles and the storages, each as given."""
    heads = b"".join(pickle.dumps(v, 2) for v in (magic, version, SYSTEM))
    path.write_bytes(heads + b"".join(b"\x80\x02" + p + b"." for p in (content, keys)) + tail)


def old_storage(*metadata: bytes, kind: bytes = FLOAT) -> bytes:
    parts = (plain("storage"), kind, plain("0"), plain("cpu"), plain(4), *(metadata or (plain(None),)))
    return tuple_of(*parts) + b"Q"


def old(content: bytes) -> bytes:
    return b"}" + plain("w") + content + b"s"


def test_a_legacy_file_by_hand(spot: Path) -> None:
    legacy_file(spot, old(tensor(old_storage())))
    assert_same(read(spot), {"w": torch.arange(4.0)})
    # A view of a storage, as torch wrote it before 0.4: (key, offset, size) of the view.
    legacy_file(spot, old(tensor(old_storage(plain(("v", 1, 3))), shape=(2,))))
    assert_same(read(spot), {"w": torch.tensor([1.0, 2])})


@pytest.mark.parametrize("metadata", [(1, 2), ("v", 1), ("v", -1, 2), ("v", "1", 2), "v"])
def test_views_of_storages_that_are_told_wrongly(spot: Path, metadata: Any) -> None:
    legacy_file(spot, old(tensor(old_storage(plain(metadata)))))
    refused(spot, "describes a view of a storage wrongly")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1000}, "its protocol is not one that torch ever wrote"),
        ({"keys": plain(["0", "1"])}, "names others than its tensors do"),
        ({"keys": plain([0])}, "names others than its tensors do"),
        ({"keys": plain("0")}, "names others than its tensors do"),
        ({"tail": b""}, "breaks off before its last storage"),
        ({"tail": struct.pack("<q3f", 4, 0, 1, 2)}, "breaks off before its last storage"),
        ({"tail": struct.pack("<q4f", -4, 0, 1, 2, 3)}, "breaks off before its last storage"),
        ({"tail": struct.pack("<q3f", 3, 0, 1, 2)}, "claims 16 bytes of a storage of 12"),
        ({"keys": plain([])}, "a tensor whose numbers are not in the file"),
        ({"magic": 7}, "holds no named tensors"),
    ],
)
def test_legacy_files_that_are_told_wrongly(spot: Path, changes: dict[str, Any], words: str) -> None:
    legacy_file(spot, old(tensor(old_storage())), **changes)
    refused(spot, words)


def test_a_module_s_class_in_a_legacy_file_is_a_name_and_its_source_is_let_go(spot: Path) -> None:
    cls = tuple_of(plain("module"), named("gone", "Net"), plain("net.py"), plain("import os")) + b"Q"
    legacy_file(spot, old(tensor(old_storage()))[:-1] + b"s" + plain("x") + cls + plain(()) + b"\x81s")
    names: dict[str, None] = {}
    content = load_torch_legacy(open_file(spot), names).content
    assert isinstance(content["x"], StandIn)
    assert content["x"].name == "gone.Net"
    assert "gone.Net" in names
    assert_same(read(spot), {"w": torch.arange(4.0)})


def test_a_large_legacy_file_is_read_where_it_lies(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save({**WEIGHTS, "deep": [WEIGHTS["w"]]}, spot, legacy=True)
    monkeypatch.setattr(opened, "_IN_MEMORY", 10)

    def never(*_: Any) -> Any:
        raise AssertionError("read into memory")

    for ahead in (opened._AHEAD, 64):  # read in one go, and over the edge of what was read ahead
        monkeypatch.setattr(opened, "_AHEAD", ahead)
        with monkeypatch.context() as patch:
            patch.setattr(io, "BytesIO", never)
            got = read(spot)
        assert_same(got, WEIGHTS)


def test_quantized_storages_in_a_legacy_file_leave_the_others_in_place(spot: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = [torch.quantize_per_tensor(torch.ones(3), 0.1, 0, k) for k in (torch.qint32, torch.qint8, torch.quint8)]
        save({"odd": odd, "model": WEIGHTS}, spot, legacy=True)
    assert_same(read(spot), WEIGHTS)


def test_a_pickle_of_no_tensors_is_no_state_dict(spot: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump({"w": 1}, buffer)
    spot.write_bytes(buffer.getvalue())
    assert load_torch_legacy(open_file(spot), {}).content.name == "a pickle that torch.save did not write"
    torch_zip(spot, b"\x80\x02" + called(named("gone", "f")) + b".")
    refused(spot, "gone.f")


def test_a_pickle_that_is_too_long(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(WEIGHTS, spot, legacy=False)
    monkeypatch.setattr(torchsaved, "PICKLE_BYTES", 10)
    refused(spot, "its data.pkl has", "more than the 10 that are read", "save the model's weights alone")
