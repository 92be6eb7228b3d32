"""Pickles that are too deep, too long, too large, broken, or odd without meaning harm."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from tests.hostile.assemble import (
    beside,
    called,
    legacy_weights,
    mapping,
    named,
    persistent,
    plain,
    storage,
    tensor,
    tensors,
    torch_legacy,
    torch_zip,
    tuple_of,
)
from tests.hostile.catalogue import Check, add, holds_w, read, refused, touch

DEPTH = 200_000
BROKEN = "breaks off or is not well formed|which no checkpoint needs"


def _doubled(empty: bytes, close: bytes, times: int = 60) -> bytes:
    """x = [x, x], ``times`` over: a few bytes that stand for 2^times elements."""
    got = b"]q\x00"
    for i in range(times):
        pair = b"h" + bytes([i])
        got += b"0" + empty + b"(" * bool(empty == b"]") + pair * 2 + close + b"q" + bytes([i + 1])
    return got


def _deep_tuple(depth: int) -> bytes:
    return b")" + b"\x85" * depth


# opcodes that stand beside sound weights -> the pattern of the refusal, or None where the file is read
BESIDE: dict[str, tuple[bytes, str | None]] = {
    "nested_lists": (b"]" * DEPTH + b"a" * (DEPTH - 1), None),
    "nested_tuples": (_deep_tuple(DEPTH), None),
    "nested_dicts": (b"}K\x00" * DEPTH + b"}" + b"s" * DEPTH, None),
    "nested_marks": (b"(" * DEPTH + b"t" * DEPTH, None),
    "nested_calls": (named("my", "X") * 100_000 + b")" + b"\x85R" * 100_000, None),
    "nested_states": (b"cmy\nX\n)\x81" * 100_000 + b"b" * 99_999, None),
    "doubled_lists": (_doubled(b"]", b"e"), None),
    "doubled_tuples": (_doubled(b"", b"\x86"), None),
    "key_of_nested_tuples": (mapping((_deep_tuple(DEPTH), plain(1))), None),
    "key_of_doubled_tuples": (b"})q\x00" + b"0h\x00h\x00\x86q\x00" * 60 + b"K\x01s", None),
    "set_of_nested_tuples": (b"\x8f(" + _deep_tuple(DEPTH) + b"\x90", None),
    "frozenset_of_itself": (b"(K\x01\x91q\x00", None),
    "dict_that_holds_itself": (b"}q\x00" + plain("me") + b"h\x00s", None),
    "list_that_holds_itself": (b"]q\x00h\x00a", None),
    "list_as_key": (mapping((b"]", plain(1))), None),
    "memo_index_of_four_bytes": (plain("s") + b"r\xff\xff\xff\xff", "memo"),
    "memo_index_negative": (plain("s") + b"p-1\n", "memo"),
    "int_of_a_million_digits": (b"I" + b"9" * 1_000_000 + b"\n", BROKEN),
    "long_of_a_million_digits": (b"L" + b"9" * 1_000_000 + b"L\n", BROKEN),
    "long4_of_two_gigabytes": (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01", BROKEN),
    "long4_negative": (b"\x8b" + struct.pack("<i", -1) + b"\x01", BROKEN),
    "long4_of_a_megabyte": (b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20), None),
    "binbytes8_of_2_62": (b"\x8e" + struct.pack("<Q", 1 << 62), BROKEN),
    "binunicode8_of_2_63": (b"\x8d" + struct.pack("<Q", 1 << 63), BROKEN),
    "bytearray8_of_a_terabyte": (b"\x96" + struct.pack("<Q", 1 << 40), BROKEN),
    "frame_of_2_63": (b"\x95" + struct.pack("<Q", 1 << 63) + b"N", None),
    "unknown_opcode": (b"\xff", BROKEN),
    "unknown_protocol": (b"\x80\xffN", BROKEN),
    "buffer_out_of_band": (b"\x97", BROKEN),
    "memo_that_was_never_set": (b"h\x63", BROKEN),
    "pop_of_nothing": (b"0" * 50 + b"N", BROKEN),
    "tuple_without_mark": (b"0" * 9 + b"t", BROKEN),
    "string_not_utf8": (b"X\x02\x00\x00\x00\xff\xfe", BROKEN),
    "call_of_a_number": (called(plain(3), plain(1)), None),
    "append_to_a_string": (plain("a") + plain("b") + b"a", BROKEN),
    "items_set_on_a_tensor": (tensor() + plain("a") + plain("b") + b"s", BROKEN),
    "state_built_on_a_list": (b"]" + mapping((plain("__class__"), plain(1))) + b"b", None),
    "class_without_a_name": (b"c\n\n", None),
    "class_name_not_a_string": (plain(1) + plain(2) + b"\x93", BROKEN),
    "odd_keys": (mapping((plain(float("nan")), plain(1)), (plain(None), plain(2)), (plain((1, 2)), plain(3))), None),
    "strings_of_every_kind": (tuple_of(b"S'a'\n", b"Vb\n", b"T\x01\x00\x00\x00c", b"U\x01d", b"\x8c\x01e"), None),
    "unknown_class": (called(named("my_project.settings", "Config"), plain(3)) + plain({"a": 1}) + b"b", None),
    "unknown_dict_class": (named("my.tree", "AttrDict") + b")\x81" + plain("a") + plain(1) + b"s", None),
    "unknown_list_class": (named("my.tree", "Rows") + b")\x81(" + plain(1) + plain(2) + b"e", None),
    "class_like_a_dangerous_one": (called(named("osystem.subprocesses", "Popen_"), plain("x")), None),
    "enormous_class_name": (named("m" * 1_000_000, "C") + b")R", None),
}

for key, (opcodes, says) in BESIDE.items():

    def _beside(folder: Path, opcodes: bytes = opcodes) -> Path:
        return torch_zip(folder / "m.pt", beside(opcodes))

    outcome: Check | None = holds_w if says is None else None
    add(_beside, key, says=says, check=outcome)


def _cut(at: int, legacy: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        if not legacy:
            return torch_zip(folder / "m.pt", tensors((plain("w"), tensor()))[:at])
        path = torch_legacy(folder / "m.pt", legacy_weights())
        path.write_bytes(path.read_bytes()[:at])
        return path

    return make


for place in (0, 1, 64, 128):
    add(_cut(place, False), f"zip_pickle_cut_at_{place}", says=BROKEN)
for place in (15, 64, 128, 256, -17, -1):
    add(_cut(place, True), f"legacy_cut_at_{place}", says=BROKEN + "|before its last storage")

# persistent identifiers that are no storage
IDENTIFIERS = {
    "none": plain(None) + b"Q",
    "number": plain(7) + b"Q",
    "text": plain("storage") + b"Q",
    "line": b"P0\n",
    "empty_tuple": b")Q",
    "short": persistent(plain("storage"), named("torch", "FloatStorage")),
    "nested": persistent(*[plain([[]])] * 5),
    "module": persistent(plain("module"), named("my", "Net"), plain("net.py"), plain("import os")),
    "key_a_list": persistent(plain("storage"), named("torch", "FloatStorage"), b"]", plain("cpu"), plain(4)),
    "class_a_string": persistent(plain("storage"), plain("FloatStorage"), plain("0"), plain("cpu"), plain(4)),
}

for key, identifier in IDENTIFIERS.items():

    def _identified(folder: Path, identifier: bytes = identifier) -> Path:
        return torch_zip(folder / "m.pt", tensors((plain("w"), tensor(identifier))))

    add(_identified, f"identifier_{key}", says="refers to something that is no storage|describes a storage wrongly")


@read()
def payload_after_stop(folder: Path) -> Path:
    """Nobody reads past STOP, and nobody here does either."""
    acting = called(named("posix", "system"), plain(touch(folder))) + b"."
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor())) + acting)


@read()
def payload_in_a_second_pickle(folder: Path) -> Path:
    """A member that no reader of torch files opens."""
    acting = b"\x80\x02" + called(named("posix", "system"), plain(touch(folder))) + b"."
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor())), extra=[("archive/other.pkl", acting)])


@refused("no named tensors")
def named_by_bytes(folder: Path) -> Path:
    """The only tensor's name is not text."""
    return torch_zip(folder / "m.pt", tensors((b"C\x01w", tensor())))


@refused("no named tensors")
def named_by_number(folder: Path) -> Path:
    """The only tensor's name is a number."""
    return torch_zip(folder / "m.pt", tensors((plain(1), tensor())))


@refused("no named tensors")
def doubled_state_dicts(folder: Path) -> Path:
    """Sixty levels of {"model": x, "net": x, "a": x, "b": x}: 4^60 ways to a dict without a tensor."""
    keys = [plain(k) for k in ("model", "net", "a", "b")]
    got = b"}q\x00"
    for i in range(60):
        got += b"0}(" + b"".join(k + b"h" + bytes([i]) for k in keys) + b"uq" + bytes([i + 1])
    return torch_zip(folder / "m.pt", b"\x80\x02" + got + b".")


@refused("no named tensors")
def state_dict_that_is_itself(folder: Path) -> Path:
    """{"state_dict": itself, "model": itself}, and no tensor anywhere."""
    return torch_zip(folder / "m.pt", b"\x80\x02}q\x00(" + plain("state_dict") + b"h\x00" + plain("model") + b"h\x00u.")


@refused("no named tensors")
def a_million_empty_dicts(folder: Path) -> Path:
    """A list of 10^6 distinct objects, no weights."""
    return torch_zip(folder / "m.pt", b"\x80\x02](" + b"}" * 1_000_000 + b"e.")


@read()
def storage_named_twice(folder: Path) -> Path:
    """Two tensors share one storage, as tied weights do."""
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor()), (plain("v"), tensor(storage()))))


@refused("no named tensors")
def storages_without_tensors(folder: Path) -> Path:
    """A dict of bare storages: no shape says how to read them."""
    return torch_zip(folder / "m.pt", tensors((plain("w"), storage())))


@refused("computing|memory|operations", slow=True)
def list_copied_without_end(folder: Path) -> Path:
    """A list of 2^20 copied a million times: 10^12 elements from 16 MB, each copy thrown away at once."""
    big = b"](" + b"N" * (1 << 20) + b"eq\x000" + named("builtins", "list") + b"q\x010"
    copy = b"h\x01h\x00\x85R0"
    return torch_zip(folder / "m.pt", b"\x80\x02" + big + copy * 1_000_000 + b"}.")
