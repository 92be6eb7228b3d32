"""What the fuzzers of tests/fuzz found, kept: each input by the smallest code that makes it, and what becomes of it."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from collapsekit.checkpoint.formats.dcp import _any_meet
from collapsekit.checkpoint.formats.layout import Chunk
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.errors import CollapsekitError
from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS
from tests.hostile.assemble import good_members, mapping, named, plain, tensor, tensors, tuple_of
from tests.hostile.watch import PATIENCE, SECONDS, no_longer_than, watched

_HASH_MODULUS = (1 << 61) - 1  # sys.hash_info.modulus on every 64-bit CPython


def torch_zip(pickled: bytes) -> bytes:
    members = [("data.pkl", pickled), *good_members()[1:]]
    return seeds.zipped([(f"archive/{n}", d) for n, d in members])


def keys_of_one_hash() -> bytes:
    """A dict of integers that all hash alike: filling it takes quadratic time."""
    return torch_zip(pickle.dumps({i * _HASH_MODULUS: None for i in range(1, 10_000)}, 2))


def memo_numbers_of_one_hash() -> bytes:
    """The same in the memo, by PUT, whose numbers are text."""
    return torch_zip(b"]" + b"".join(b"p%d\n" % (i * _HASH_MODULUS) for i in range(1, 30_000)) + b".")


def one_dict_on_every_way() -> bytes:
    """Dicts that hold one another under every name that weights are looked for: ways multiply level by level."""
    loop: dict[str, object] = {}
    for name in ("state_dict", "model", "ema", "net", *(f"part{i}" for i in range(60))):
        loop[name] = loop
    return torch_zip(pickle.dumps(loop, 2))


def a_type_rebuilt_of_a_type_without_end() -> bytes:
    """_rebuild_from_type_v2 called with itself as what rebuilds the tensor."""
    rebuild = named("torch._tensor", "_rebuild_from_type_v2")
    args = tuple_of(rebuild, named("torch", "Tensor"), plain(()), plain({}))
    for _ in range(3000):
        args = tuple_of(rebuild, named("torch", "Tensor"), args, plain({}))
    return torch_zip(tensors((plain("w"), rebuild + args + b"R")))


def a_shape_of_nothing_with_strides_beyond_counting() -> bytes:
    """No elements, by one 0, and sizes beside it whose product no integer of 64 bits holds."""
    return torch_zip(tensors((plain("w"), tensor(shape=(0, 1 << 40, 1 << 40), stride=(1, 1, 1)))))


def a_shard_of_a_name_no_file_can_have() -> bytes:
    """A shard's name of 3,000 letters: looking whether it is there is an error of its own."""
    return b"\2" + json.dumps({"weight_map": {"w": "k" * 3000 + ".safetensors"}}).encode()


def fields_called_o() -> bytes:
    """A structured array with a field named O is no array of objects; what is not of numbers is left out."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(2, [("O", "<f4")]))
    return b"\3" + stream.getvalue()


def text_in_raw_unicode() -> bytes:
    """Protocol 0 text, whose codec is imported on first use: in the confined process that was taken for an act."""
    return torch_zip(mapping((b"Vw\\u0041\n", tensor())) + b".")


def escapes_that_warn() -> bytes:
    """An odd escape in a protocol 0 string, of which pickletools warns: that is no act."""
    return torch_zip(mapping((b"S'w\\o'\n", tensor())) + b".")


def a_conjugate() -> bytes:
    """The numbers stored are not those meant."""
    stream = io.BytesIO()
    torch.save({"w": torch.tensor([1 + 2j]).conj()}, stream)
    return stream.getvalue()


def control_characters_in_a_key() -> bytes:
    """The note names the key the weights were taken from."""
    return torch_zip(tensors((plain("part\x1b[31m\u202e"), mapping((plain("w"), tensor())))))


FOUND: dict[Callable[[], bytes], tuple[str, str | None]] = {
    keys_of_one_hash: ("m.pt", "more than 1000 keys that are long integers"),
    memo_numbers_of_one_hash: ("m.pt", "a memo of number"),
    one_dict_on_every_way: ("m.pt", "holds no named tensors"),
    a_type_rebuilt_of_a_type_without_end: ("m.pt", "not stored as plain dense numbers"),
    a_shape_of_nothing_with_strides_beyond_counting: ("m.pt", "more elements than can be addressed"),
    a_conjugate: ("m.pt", "resolve_conj"),
    text_in_raw_unicode: ("m.pt", None),
    escapes_that_warn: ("m.pt", None),
    control_characters_in_a_key: ("m.pt", None),
    a_shard_of_a_name_no_file_can_have: ("model.safetensors.index.json", "is not there"),
    fields_called_o: ("a.npz", "no named tensors"),
}


def refused(path: Path) -> str | None:
    try:
        read_checkpoint(path)
    except CollapsekitError as e:
        return str(e)
    return None


@pytest.mark.parametrize("make", FOUND, ids=lambda make: make.__name__)
def test_finding(tmp_path: Path, make: Callable[[], bytes]) -> None:
    name, says = FOUND[make]
    target = TARGETS["archive" if name == "m.pt" else "arrays"]
    with no_longer_than(PATIENCE), watched() as watch:
        target.one(tmp_path, make())  # in this process: nothing but documented errors
        refusal = refused(tmp_path / name)
    assert watch.seconds <= SECONDS
    assert (refusal is None) == (says is None), refusal
    assert says is None or says in str(refusal)


def test_pieces_cut_along_another_axis_are_compared_with_their_neighbours_only() -> None:
    """Columns, not rows: along the first axis every piece would meet every other one."""
    many = [Chunk(Path("x"), 0, (1000, 1), (1, 1), (0, i)) for i in range(20_000)]
    with no_longer_than(PATIENCE), watched() as watch:
        assert not _any_meet(many)
        assert _any_meet([*many, Chunk(Path("x"), 0, (1, 1), (1, 1), (999, 19_999))])
    assert watch.seconds <= SECONDS


def test_a_name_shown_keeps_no_control_character(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(control_characters_in_a_key())
    note = read_checkpoint(tmp_path / "m.pt").note
    assert note.isprintable()
    assert "part" in note
