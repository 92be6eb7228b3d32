"""Mutations that keep an input's frame sound, so that they reach what lies behind it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import pickletools
import random
import struct
from collections.abc import Callable
from typing import Any

from tests.fuzz.seeds import members
from tests.hostile.zipper import Member, archive

Mutate = Callable[[bytes, int], bytes]  # bytes, at most this many -> bytes: the fuzzer's own
NUMBERS = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    63,
    64,
    65,
    255,
    1 << 16,
    1 << 31,
    1 << 32,
    1 << 61,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
]
NUMBERS += [-n for n in NUMBERS[1:]] + [1 << 64, 1 << 200]
TEXTS = ["", ".", "..", "/", "w", "v", "a.w", "0", "state_dict", "model", "net", "ema", "F32", "BOOL", "a\0b", "é"]
TEXTS += ["\x1b[31m", "\ud800", "\u202e", "n" * 300, "strided", "as_int", "weight_0", "weight_1", "a.safetensors"]
NAMES = ["a/constants.pkl", "a/code/x.py", "a/x.py", "a/.data/extern_modules", "archive/data.pkl", "archive/data/0"]
NAMES += [
    "archive_format",
    "m/archive_format",
    "serialized_state_dict.pt",
    "0.npy",
    ".npy",
    "",
    "/",
    "archive/byteorder",
]
_GLOBALS = ["torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._tensor _rebuild_from_type_v2"]
_GLOBALS += [
    "torch FloatStorage",
    "torch Size",
    "collections OrderedDict",
    "builtins list",
    "_codecs encode",
    "os system",
]
_GLOBALS += ["torch.nn.parameter Parameter", "torch float64", "torch strided", "\x1b[31m x", "torch\u202e x"]
_GLOBALS += [
    "builtins bytearray",
    "collections defaultdict",
    "torch.nn Linear",
    "torch._utils _rebuild_qtensor",
    "torch Tensor",
]
TEXTS += ["storage", "module", "latin1", "cpu", "__0_0.distcp", ".metadata", "optimizer", "k" * 3000]


def json_text(data: bytes, rng: random.Random, most: int, mutate: Mutate) -> bytes:
    """JSON changed as a tree; bytes where it is none, and now and then."""
    try:
        tree = json.loads(data) if rng.random() < 0.85 else None
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict | list):
        return mutate(data, most)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(tree, rng)
    return json.dumps(tree, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")[:most]


def _change(tree: Any, rng: random.Random) -> None:
    """One change somewhere in a JSON tree, in place."""
    nodes, at = [tree], 0
    while at < len(nodes):  # breadth first, containers only
        below = nodes[at].values() if isinstance(nodes[at], dict) else nodes[at]
        nodes += [n for n in below if isinstance(n, dict | list)]
        at += 1
    node = rng.choice(nodes)
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = rng.choice(keys) if keys else None
    value = _value(nodes, rng)
    what = rng.randrange(6)
    if what == 0 and keys:
        del node[key]
    elif what == 1 and isinstance(node, dict):
        node[rng.choice(TEXTS)] = value
    elif what == 1:
        node.insert(rng.randrange(len(node) + 1), value)
    elif what == 2 and keys:
        node[key] = [node[key]] * rng.randrange(4)
    elif what == 3 and isinstance(node, dict) and keys:
        node[rng.choice(TEXTS)] = node.pop(key)
    elif keys:
        node[key] = value


def _value(nodes: list[Any], rng: random.Random) -> Any:
    scalar = [rng.choice(NUMBERS), rng.choice(TEXTS), None, True, False, 1.5, 1e308, -0.0, rng.randrange(70), {}, []]
    return copy.deepcopy(rng.choice([*scalar, rng.choice(nodes)]))


def pickled(data: bytes, rng: random.Random, most: int, mutate: Mutate) -> bytes:
    """A pickle with values put in the place of others, which keeps its stack in order; now and then opcodes or bytes
    at random."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        ops, spans = split(data)
        how = rng.random()
        if len(ops) < 3 or how < 0.1:
            data = mutate(data, most)
        elif how < 0.85 and spans:
            start, end = rng.choice(spans)
            other = rng.choice(spans)
            value = b"".join(ops[slice(*other)]) if rng.random() < 0.4 else _opcode(rng, value=True)
            data = b"".join([*ops[:start], value, *ops[end:]])
        else:
            at, length = rng.randrange(1, len(ops)), rng.choice((1, 1, 2, 5, 20))
            kept = rng.choice((ops[at : at + length], [], [_opcode(rng)], [mutate(ops[at], len(ops[at]) + 8)]))
            data = b"".join([*ops[:at], *kept, *ops[at + rng.choice((0, length)) :]])
    return data[:most]


def split(data: bytes) -> tuple[list[bytes], list[tuple[int, int]]]:
    """A pickle's opcodes, as far as they can be read, and the rest; and which of them, from and up to, make a value."""
    places: list[int] = []
    spans: list[tuple[int, int]] = []
    stack: list[tuple[int, bool]] = []  # where each item's opcodes begin, and whether it is a mark
    with contextlib.suppress(Exception):  # of a mutated pickle, whatever comes
        for i, (op, _, place) in enumerate(pickletools.genops(data)):
            places.append(place or 0)
            below = len(op.stack_before)
            if pickletools.markobject in op.stack_before:
                below = op.stack_before.index(pickletools.markobject)
                below += next(n for n, (_, mark) in enumerate(reversed(stack), 1) if mark)
            taken = stack[len(stack) - below :]
            del stack[len(stack) - below :]
            start = min([i, *(s for s, _ in taken)])
            stack += [(start, kind is pickletools.markobject) for kind in op.stack_after]
            if op.stack_after and not stack[-1][1]:
                spans.append((start, i + 1))
    return [data[a:b] for a, b in itertools.pairwise(sorted({*places, 0, len(data)}))], spans


def _opcode(rng: random.Random, value: bool = False) -> bytes:
    """Any opcode, or one that leaves a value on the stack and takes none."""
    number, text = rng.choice(NUMBERS), rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    long = number.to_bytes(27, "little", signed=True)
    made = [
        b"\x8a" + bytes([len(long)]) + long,
        b"K" + bytes([rng.randrange(70)]),
        b"X" + struct.pack("<L", len(text)) + text,
        b"c" + rng.choice(_GLOBALS).replace(" ", "\n").encode() + b"\n",
        b"h" + bytes([rng.randrange(8)]),
        b"q" + bytes([rng.randrange(8)]),
        b"G" + struct.pack(">d", rng.choice((0.0, 1.5, float("nan"), float("inf")))),
        b"B" + struct.pack("<L", 2) + b"xy",
    ]
    simple = [bytes([c]) for c in b"(0.12lNtu})]aesbdoQRh\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"]
    if value:
        return rng.choice([*made, b"N", b")", b"]", b"}", b"\x88", b"\x89"])
    return rng.choice(made) if rng.random() < 0.6 else rng.choice(simple)


def zipped(data: bytes, rng: random.Random, most: int, mutate: Mutate) -> bytes:
    """An archive with one member changed and its checksums and sizes made to fit again, or one header field untrue."""
    parts = members(data) if rng.random() < 0.8 else None
    if not parts:
        return mutate(data, most)
    zero = rng.random() < 0.2
    made = [Member(name, content, crc=0 if zero else None) for name, content in parts]
    at, what = rng.randrange(len(made)), rng.randrange(8)
    chosen = made[at]
    if what < 4:
        chosen.data = member(str(chosen.name), bytes(chosen.data), rng, most, mutate)
    elif what == 4:
        chosen.name = rng.choice([*NAMES, "archive/" + rng.choice(TEXTS).replace("\ud800", "x")])
    elif what == 5:
        made.insert(at, Member(rng.choice(NAMES), rng.choice(parts)[1], crc=0 if zero else None))
    elif what == 6 and len(made) > 1:
        made.pop(at)
    else:
        _lie(chosen, rng)
    return archive(made)[:most]


def _lie(chosen: Member, rng: random.Random) -> None:
    field = rng.choice(("local_size", "size", "packed", "crc", "flags", "local_flags", "method", "offset", "extra"))
    numbers = [0, 1, 8, 0x800, 0xFFFF, 0xFFFFFFFF, len(chosen.data), len(chosen.data) + 1]
    value: Any = rng.choice(numbers)
    if field in ("flags", "local_flags", "method"):
        value &= 0xFFFF
    if field == "extra":
        value = struct.pack("<HHQQ", 1, rng.choice((8, 16, 24)), *(n % (1 << 64) for n in rng.sample(NUMBERS, 2)))
    setattr(chosen, field, value)


def member(name: str, data: bytes, rng: random.Random, most: int, mutate: Mutate) -> bytes:
    """What lies in an archive, by its name."""
    if name.endswith((".pkl", ".metadata")):
        return pickled(data, rng, most, mutate)
    if name.endswith(".json"):
        return json_text(data, rng, most, mutate)
    if data.startswith(b"PK\x03\x04"):
        return zipped(data, rng, most, mutate)
    return npy(data, rng, most, mutate) if name.endswith(".npy") else mutate(data, most)


def npy(data: bytes, rng: random.Random, most: int, mutate: Mutate) -> bytes:
    """A .npy array whose header's text is changed and its length made to fit."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12 or rng.random() < 0.2:
        return mutate(data, most)
    length = struct.unpack_from("<H", data, 8)[0]
    header, body = data[10 : 10 + length], data[10 + length :]
    words = [*b"( ) , ' 0 1 4 9223372036854775807 (4,) () >f8 |O True".split(), b" "]
    for _ in range(rng.choice((1, 2))):
        at = rng.randrange(len(header) + 1)
        header = header[:at] + rng.choice([*words, b""]) + header[at + rng.randrange(4) :]
    if rng.random() < 0.2:
        body = mutate(body, most)
    return data[:8] + struct.pack("<H", len(header) & 0xFFFF) + header[:0xFFFF] + body
