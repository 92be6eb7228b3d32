from __future__ import annotations

import io
import math
import pickle
import pickletools
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.checkpoint.formats import pickle_vm as pickles
from collapsekit.checkpoint.formats.layout import DamagedError, Located, Odd
from collapsekit.checkpoint.formats.pickle_vm import Call, Name, StandIn, unpickled
from collapsekit.checkpoint.formats.torch_save import torch_calls

PLAIN = torch_calls(lambda *_: None)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def no_storage(pid: Any) -> Any:
    raise AssertionError(pid)


def here(data: bytes, calls: Mapping[str, Call] = PLAIN) -> Any:
    return unpickled(io.BytesIO(data), {}, calls, no_storage)


def named(data: bytes) -> list[str]:
    names: dict[str, None] = {}
    unpickled(io.BytesIO(data), names, PLAIN, no_storage)
    return list(names)


def says(data: bytes, words: str) -> None:
    with pytest.raises(DamagedError) as e:
        here(data)
    assert words in str(e.value)
    assert "\n" not in str(e.value)


# --- plain data: as CPython reads it --------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=()))
keys = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary()
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 3000), 1 << 3000),
    st.floats(),
    text,
    st.binary(),
    st.binary().map(bytearray),
    st.frozensets(keys, max_size=3),
)
data = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
        | st.sets(keys, max_size=4)
    ),
    max_leaves=15,
)


def alike(got: Any, want: Any) -> bool:
    """Equal to the last bit and in kind; a set is a list or tuple of its members."""
    if isinstance(want, float):
        return type(got) is float and (math.isnan(got) if math.isnan(want) else got.hex() == want.hex())
    if isinstance(want, set | frozenset):
        return type(got) in (list, tuple) and len(got) == len(want) and set(got) == want
    if isinstance(want, dict):
        return type(got) is dict and alike(list(got.items()), list(want.items()))
    if isinstance(want, list | tuple):
        return type(got) is type(want) and len(got) == len(want) and all(map(alike, got, want))
    if isinstance(want, bytearray):
        return type(got) in (bytes, bytearray) and got == want
    return type(got) is type(want) and got == want


@settings(max_examples=250, deadline=None)
@given(data, st.sampled_from(PROTOCOLS))
def test_plain_data_is_read_as_pickle_reads_it(value: Any, protocol: int) -> None:
    written = pickle.dumps(value, protocol)
    stream = io.BytesIO(written + b"what follows")
    assert alike(unpickled(stream, {}, PLAIN, no_storage), pickle.loads(written))
    assert stream.read() == b"what follows"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        list(range(3000)),  # batches of a thousand
        dict.fromkeys(range(3000)),
        set(range(3000)),
        [bytes([i]) * 3 for i in range(256)] * 3,  # a memo of more than a byte's numbers
        ["x" * 300, b"x" * 300, bytearray(b"x" * 300), -(1 << 31), (1 << 31) - 1, 1 << 31, 255, 256, 65536],
        Counter("abbccc"),
        defaultdict(list, a=[1]),
        (1, (2, 3), (4, 5, 6), (7, 8, 9, 10), ()),
    ],
)
def test_every_size_of_plain_data(value: Any, protocol: int) -> None:
    got = here(pickle.dumps(value, protocol))
    assert alike(got, value) or got == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_stays_shared(protocol: int) -> None:
    inner = ["x"]
    got = here(pickle.dumps({"a": inner, "b": [inner], "c": ({"d": inner},)}, protocol))
    assert got["a"] is got["b"][0]
    assert got["a"] is got["c"][0]["d"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_contains_itself_does_so_still(protocol: int) -> None:
    value: dict[str, Any] = {"list": []}
    value["self"] = value
    value["list"] += [value, (value,)]  # a tuple within its own contents
    got = here(pickle.dumps(value, protocol))
    assert got["self"] is got
    assert got["list"][0] is got
    assert got["list"][1][0] is got
    own: tuple[Any, ...] = ([],)
    own[0].append(own)
    again = here(pickle.dumps(own, protocol))
    assert again[0][0][0] is again[0]


def test_nesting_of_any_depth() -> None:
    depth = 200_000
    got = here(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        (got,) = got
    assert got == []


def test_a_dict_is_filled_in_order_and_the_last_of_two_equal_keys_wins() -> None:
    assert list(here(pickle.dumps({"b": 1, "a": 2})).items()) == [("b", 1), ("a", 2)]
    assert here(b"}(K\x01K\x02\x88K\x03u.") == {1: 3}


def test_keys_that_are_not_plain_are_kept_by_identity() -> None:
    got = here(pickle.dumps({(1, 2): "a", "b": 3, frozenset([1]): "c"}))
    odd = [key for key in got if isinstance(key, StandIn)]
    assert [(key.name, key.args) for key in odd] == [("a key", (1, 2)), ("a key", (1,))]
    assert [got[odd[0]], got["b"], got[odd[1]]] == ["a", 3, "c"]
    assert here(b"}(]K\x01u.").popitem()[1] == 1  # a list is no key for CPython


# --- objects of classes: named, never looked up ---------------------------------------------------------------


class Plain:
    def __init__(self) -> None:
        self.a, self.b = 1, [2]


class Made(dict):  # type: ignore[type-arg]
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(**more)
        self.kept = args


class Listed(list):  # type: ignore[type-arg]
    pass


class Given:
    def __init__(self, *args: Any, word: int = 0) -> None:
        self.args, self.word = args, word

    def __getnewargs_ex__(self) -> tuple[Any, Any]:
        return self.args, {"word": self.word}

    def __new__(cls, *args: Any, **_: Any) -> Given:
        return super().__new__(cls)


class Reduced:
    def __reduce__(self) -> Any:
        return Reduced, (1, "two"), {"state": 3}, iter([4]), iter([("five", 6)])

    def __init__(self, *_: Any) -> None:
        pass


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> str:
    """The classes above under the name of a module that can be imported while they are pickled only."""
    module = ModuleType("gone_away")
    for cls in (Plain, Made, Listed, Given, Reduced):
        monkeypatch.setattr(cls, "__module__", "gone_away")
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "gone_away", module)
    return "gone_away"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_of_unknown_classes(gone: str, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(1, x=2)
    value = [Plain(), made, Listed("ab"), Given(7, word=8), Reduced(), made]
    written = pickle.dumps(value, protocol)
    monkeypatch.delitem(sys.modules, gone)
    before = set(sys.modules)
    names: dict[str, None] = {}
    plain, mapping, listed, given_, reduced, again = unpickled(io.BytesIO(written), names, PLAIN, no_storage)
    assert set(sys.modules) == before
    kinds = ["Plain", "Made", "Listed", "Given", "Reduced"]
    assert [n for n in names if n.startswith(gone)] == [f"gone_away.{k}" for k in kinds]
    assert all(isinstance(v, StandIn) for v in (plain, mapping, listed, given_, reduced))
    assert (plain.name, plain.args, plain.state) == ("gone_away.Plain", (), {"a": 1, "b": [2]})
    assert (mapping.name, mapping.mapping, mapping.state) == ("gone_away.Made", {"x": 2}, {"kept": (1,)})
    assert mapping is again
    assert listed.name == "gone_away.Listed"
    assert given_.state == {"args": (7,), "word": 8}
    if protocol >= 4:  # before, the keywords are in a functools.partial
        assert (given_.name, given_.args) == ("gone_away.Given", (7,))
    assert (reduced.args, reduced.state, reduced.mapping) == ((1, "two"), {"state": 3}, {"five": 6})


@pytest.mark.parametrize("protocol", [0, 1])
def test_objects_of_unknown_classes_in_old_protocols(gone: str, protocol: int) -> None:
    written = pickle.dumps(Plain(), protocol)
    (made,) = [here(written)]
    assert made.args[0] == Name("gone_away", "Plain")
    assert made.state == {"a": 1, "b": [2]}
    assert named(written) == ["copy_reg._reconstructor", "gone_away.Plain", "__builtin__.object"]
    assert made.name == "copy_reg._reconstructor"


def test_names_are_told_also_where_the_pickle_breaks_off() -> None:
    names: dict[str, None] = {}
    with pytest.raises(DamagedError, match="breaks off"):
        unpickled(io.BytesIO(b"cos\nsystem\nX\x05\x00\x00\x00echo"), names, PLAIN, no_storage)
    assert list(names) == ["os.system"]


def test_what_a_call_gave_back_may_be_called_and_is_not() -> None:
    got = here(b"\x80\x02cgone\nfunction\n)R(K\x01tR.")  # function()(1)
    assert (got.name, got.args) == ("gone.function", (1,))
    got = here(b"\x80\x02(K\x01t(K\x02tR.")
    assert (got.name, got.args) == ("tuple", (2,))


def test_a_call_is_answered_from_the_table_alone() -> None:
    seen: list[Any] = []

    def answer(args: tuple[Any, ...]) -> Any:
        seen.append(args)
        return "answered"

    assert here(b"\x80\x02cgone\nfunction\n(K\x01K\x02tR.", {"gone.function": answer}) == "answered"
    assert seen == [(1, 2)]


def test_persistent_ids_are_answered() -> None:
    got = unpickled(io.BytesIO(b"(K\x05QPtext\nt."), {}, {}, lambda pid: ("answer", pid))
    assert got == (("answer", 5), ("answer", "text"))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"", "not well formed"),
        (b".", "not well formed: pop from empty list"),
        (b"K\x01", "not well formed"),
        (b"X\xff\xff\xff\x7fab.", "not well formed"),
        (b"\xff.", "not well formed"),
        (b"a.", "stack underflow"),
        (b"K\x01\x86.", "stack underflow"),
        (b"h\x05.", "not well formed: 5"),
        (b"q\x01.", "not well formed"),
        (b"t.", "not well formed"),
        (b"0.", "not well formed"),
        (b"\x81.", "stack underflow"),
        (b"K\x01K\x02a.", "appends to int"),
        (b"}K\x02a.", "appends to dict"),
        (b"]K\x01K\x02s.", "sets items of list"),
        (b"}(K\x01u.", "sets items of dict"),
        (b"(K\x01d.", "sets items of dict"),
        (b"K\x01K\x02\x93.", "a name that is no text"),
        (b"cgone\nf\nK\x02R.", "arguments that are no tuple"),
        (b"(o.", "not well formed: not enough values"),
        (b"I12x\n.", "not well formed"),
        (b"ccollections\nOrderedDict\n(](K\x05ea\x85R.", "not well formed"),
        (b"ccollections\nOrderedDict\n(]K\x05atR.", "not well formed"),
        (b"\x80\x09.", "unsupported pickle protocol 9"),
        (b"\x80\x06N.", "unsupported pickle protocol 6"),
        (b"]p-1\n.", "a memo of number -1"),
    ],
)
def test_a_pickle_that_is_not_well_formed(written: bytes, words: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 - whatever CPython says
        pickle.loads(written.replace(b"cgone\nf\n", b"cbuiltins\nint\n"))
    says(written, words)


def test_memo_numbers_and_keys_that_could_all_share_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    says(b"]r\x00\x2d\x31\x01.", "a memo of number 20000000")  # lawful, and no pickler counts so far
    long = pickle.dumps({1 << 80 | i: i for i in range(1000)}, 2)
    assert len(here(long)) == 1000  # type: ignore[arg-type]
    says(pickle.dumps({1 << 80 | i: i for i in range(1001)}, 2), "more than 1000 keys that are long integers")
    assert len(here(pickle.dumps({1 << 60 | i: i for i in range(1001)}, 2))) == 1001  # type: ignore[arg-type]


def test_states_are_kept_of_stand_ins_and_set_on_nothing_else() -> None:
    kept = here(b"cgone\nC\n)\x81K\x05b.")
    assert isinstance(kept, StandIn)
    assert kept.state == 5
    assert here(b"]K\x05b.") == []
    odd = Odd("sparse")
    assert unpickled(io.BytesIO(b"cf\nx\n)RK\x05b."), {}, {"f.x": lambda _: odd}, str) is odd
    tensor = Located("int8", (), ())
    with pytest.raises(DamagedError, match="sets the state of Located"):
        unpickled(io.BytesIO(b"cf\nx\n)RK\x05b."), {}, {"f.x": lambda _: tensor}, str)
    says(b"K\x01K\x02b.", "sets the state of int")


def test_operations_without_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 50)
    assert here(b"K\x010" * 24 + b"N.") is None
    says(b"K\x010" * 24 + b"N0N.", "its pickle has more than the 50 operations that are read")


def test_names_without_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_NAMES", 1)
    says(b"ca\nb\nca\nb\ncc\nd\n.", "its pickle names more than the 1 classes that are read")


# --- every opcode there is ------------------------------------------------------------------------------------

EXAMPLES: dict[str, bytes] = {
    "INT": b"I-12\n.",
    "BININT": b"J\xfe\xff\xff\xff.",
    "BININT1": b"K\xff.",
    "BININT2": b"M\xff\xff.",
    "LONG": b"L-123456789012345678901234567890L\n.",
    "LONG1": b"\x8a\x02\x00\xff.",
    "LONG4": b"\x8b\x02\x00\x00\x00\x00\xff.",
    "STRING": b"S'it''s'\n.",
    "BINSTRING": b"T\x02\x00\x00\x00ab.",
    "SHORT_BINSTRING": b"U\x02ab.",
    "BINBYTES": b"B\x02\x00\x00\x00a\xff.",
    "SHORT_BINBYTES": b"C\x02a\xff.",
    "BINBYTES8": b"\x8e\x02\x00\x00\x00\x00\x00\x00\x00a\xff.",
    "BYTEARRAY8": b"\x96\x02\x00\x00\x00\x00\x00\x00\x00a\xff.",
    "NONE": b"N.",
    "NEWTRUE": b"\x88.",
    "NEWFALSE": b"\x89.",
    "UNICODE": b"V\\u1234x\n.",
    "SHORT_BINUNICODE": b"\x8c\x03\xc3\xa4b.",
    "BINUNICODE": b"X\x03\x00\x00\x00\xc3\xa4b.",
    "BINUNICODE8": b"\x8d\x03\x00\x00\x00\x00\x00\x00\x00\xc3\xa4b.",
    "FLOAT": b"F-1.25e3\n.",
    "BINFLOAT": b"G\x7f\xf0\x00\x00\x00\x00\x00\x00.",
    "EMPTY_LIST": b"].",
    "APPEND": b"]K\x01a.",
    "APPENDS": b"](K\x01K\x02e.",
    "LIST": b"(K\x01K\x02l.",
    "EMPTY_TUPLE": b").",
    "TUPLE": b"(K\x01K\x02t.",
    "TUPLE1": b"K\x01\x85.",
    "TUPLE2": b"K\x01K\x02\x86.",
    "TUPLE3": b"K\x01K\x02K\x03\x87.",
    "EMPTY_DICT": b"}.",
    "DICT": b"(K\x01K\x02K\x03K\x04d.",
    "SETITEM": b"}K\x01K\x02s.",
    "SETITEMS": b"}(K\x01K\x02K\x03K\x04u.",
    "EMPTY_SET": b"\x8f.",
    "ADDITEMS": b"\x8f(K\x01K\x02\x90.",
    "FROZENSET": b"(K\x01K\x02\x91.",
    "POP": b"NK\x010(0.",  # a value, and a mark
    "DUP": b"K\x012\x86.",
    "MARK": b"((K\x01t(tt.",
    "POP_MARK": b"K\x01(K\x02K\x031.",
    "GET": b"]p7\n0g7\n.",
    "BINGET": b"]q\x070h\x07.",
    "LONG_BINGET": b"]r\x07\x00\x00\x000j\x07\x00\x00\x00.",
    "PUT": b"]p7\n(g7\ng7\nt.",
    "BINPUT": b"]q\x07(h\x07h\x07t.",
    "LONG_BINPUT": b"]r\x07\x00\x00\x00(j\x07\x00\x00\x00t.",
    "MEMOIZE": b"]\x94K\x01\x94(h\x00h\x01t.",
    "PROTO": b"\x80\x05N.",
    "STOP": b"K\x01.N.",
    "FRAME": b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.",
    "GLOBAL": b"ccollections\nOrderedDict\n)R.",
    "STACK_GLOBAL": b"\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R.",
    "REDUCE": b"cbuiltins\nlist\n(K\x01K\x02\x86tR.",
    "BUILD": b"ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00aK\x01sb.",  # attributes of a dict are let go
    "INST": b"(ibuiltins\nlist\n.",
    "OBJ": b"(cbuiltins\nlist\n(K\x01K\x02to.",
    "NEWOBJ": b"cbuiltins\nlist\n)\x81.",
    "NEWOBJ_EX": b"cbuiltins\ndict\n)}\x92.",
    "PERSID": b"Ptext\n.",
    "BINPERSID": b"K\x05Q.",
}
REFUSED = {"EXT1": b"\x82\x01.", "EXT2": b"\x83\x01\x00.", "EXT4": b"\x84\x01\x00\x00\x00."} | {
    "NEXT_BUFFER": b"\x97.",
    "READONLY_BUFFER": b"N\x98.",
}


class Reference(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return ("answer", pid)


@pytest.mark.parametrize("op", pickletools.opcodes, ids=lambda op: op.name)
def test_every_opcode_is_carried_out_or_refused_by_name(op: pickletools.OpcodeInfo) -> None:
    if op.name in REFUSED:
        assert op.code.encode("latin-1") in REFUSED[op.name]
        says(REFUSED[op.name], f"its pickle uses {op.name}, which no checkpoint needs")
        return
    written = EXAMPLES[op.name]
    assert op.name in {o.name for o, _, _ in pickletools.genops(written)}
    got = unpickled(io.BytesIO(written), {}, PLAIN, lambda pid: ("answer", pid))
    want = Reference(io.BytesIO(written)).load()
    assert alike(got, want), (got, want)
