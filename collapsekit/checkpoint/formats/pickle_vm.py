"""Pickles as inert values: the opcodes of Python's pickletools, carried out without importing or calling anything.

Classes and functions that a pickle names are answered by name from a table of pure functions, and where the table has
none, by an empty stand-in. There is no recursion, so nesting of any depth is only as long as its bytes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from collapsekit.checkpoint.formats.layout import DamagedError, LimitError, Odd
from collapsekit.checkpoint.formats.source import Buffered

MAX_OPERATIONS = 10_000_000  # a state_dict takes about 35 a tensor
MAX_NAMES = 10_000  # classes and functions; a checkpoint names a hundred
_NEWEST_PROTOCOL = 5
_MAX_LONG_KEYS = 1000  # any number of them may be made to share one hash
_KEYS = (str, int, float, bool, bytes, type(None))
_ERRORS = (ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError)


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names; never looked up."""

    module: str
    name: str

    @property
    def full(self) -> str:
        """As in an import: "torch._utils._rebuild_tensor_v2"."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class StandIn:
    """In the place of an object of a class that was not looked up: its name and what it would have been given."""

    name: str
    args: Any = ()
    state: Any = None
    mapping: dict[Any, Any] = field(default_factory=dict)  # what a dict's subclass was filled with


VERSIONS = StandIn("versions of modules")  # the key of what a state dict tells of them, which no file can write
Call = Callable[[tuple[Any, ...]], Any]


def unpickled(
    stream: BinaryIO | Buffered, names: dict[str, None], calls: Mapping[str, Call], persistent: Callable[[Any], Any]
) -> object:
    """Read the pickle that starts at the stream's position, which is left behind its STOP; nothing it names is looked up.

    Args:
        stream: the pickle's bytes.
        names: filled with every name in order, also where the pickle breaks off.
        calls: what answers for functions and classes, by full name, from their arguments.
        persistent: what answers for persistent ids.

    Returns:
        The pickle's value, of plain data and what ``calls`` and ``persistent`` answer.

    Raises:
        DamagedError: where it is no pickle, or beyond the limits.
    """
    machine = _Machine(names, calls, persistent)
    try:
        for count, (op, arg, _) in enumerate(pickletools.genops(cast(BinaryIO, stream))):
            if count >= MAX_OPERATIONS:
                raise LimitError(f"its pickle has more than the {MAX_OPERATIONS:,} operations that are read")
            do = _DO.get(op.name)
            if do is None:
                raise DamagedError(f"its pickle uses {op.name}, which no checkpoint needs")
            do(machine, arg)
    except _ERRORS as e:
        raise DamagedError(f"its pickle breaks off or is not well formed: {_first_line(e)}") from None
    return machine.result


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__


class _Machine:
    """The stack, the memo and a method for each kind of opcode, as in CPython's pickle._Unpickler."""

    def __init__(self, names: dict[str, None], calls: Mapping[str, Call], persistent: Callable[[Any], Any]) -> None:
        self.names, self.calls, self.persistent = names, calls, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.result: object = None
        self.long_keys = 0

    def last(self, count: int) -> list[Any]:
        """Taken off the stack."""
        if len(self.stack) < count:
            raise IndexError("stack underflow")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def stop(self) -> None:
        self.result = self.stack.pop()

    # Sets become lists: nothing needs them, and hashing their members could be made to take for ever.
    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, StandIn):
            raise TypeError(f"appends to {type(target).__name__}")

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        into = target.mapping if isinstance(target, StandIn) else target
        if type(into) is not dict or len(items) % 2:
            raise TypeError(f"sets items of {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Another key (a tuple that nests a million deep) is kept by identity, so that hashing it costs nothing.
            plain = type(key) in _KEYS or isinstance(key, StandIn)
            self.long_keys += type(key) is int and key.bit_length() > 64
            if self.long_keys > _MAX_LONG_KEYS:
                raise ValueError(f"more than {_MAX_LONG_KEYS} keys that are long integers")
            into[key if plain else StandIn("a key", key)] = value

    def new_dict(self) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.fill(items)

    def named(self, module: Any, name: Any) -> Name:
        if type(module) is not str or type(name) is not str:
            raise TypeError("a name that is no text")
        found = Name(module, name)
        self.names[found.full] = None
        if len(self.names) > MAX_NAMES:
            raise LimitError(f"its pickle names more than the {MAX_NAMES:,} classes that are read")
        return found

    def make(self, function: Any, args: Any) -> None:
        if type(args) is not tuple:
            raise TypeError("arguments that are no tuple")
        if not isinstance(function, Name):  # what a call gave back is called in turn
            made: Any = StandIn(function.name if isinstance(function, StandIn) else type(function).__name__, args)
        elif function.full in self.calls:
            made = self.calls[function.full](args)
        else:
            made = StandIn(function.full, args)
        self.stack.append(made)

    def newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self.make(*self.last(2))

    def obj(self) -> None:
        kind, *args = self.since_mark()
        self.make(kind, tuple(args))

    def inst(self, arg: str) -> None:
        args = tuple(self.since_mark())
        self.make(self.named(*arg.split(" ", 1)), args)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.state = state
        elif not isinstance(target, dict | list | Odd):  # a dict's attributes are no entries; a tensor would change
            raise TypeError(f"sets the state of {type(target).__name__}")
        if isinstance(target, dict) and isinstance(state, dict) and "_metadata" in state:
            target[VERSIONS] = state["_metadata"]


_Do = Callable[[_Machine, Any], None]


def _pushing(value: Callable[[Any], Any], *ops: str) -> dict[str, _Do]:
    return dict.fromkeys(ops, lambda m, arg: m.stack.append(value(arg)))


def _same(arg: Any) -> Any:
    return arg


def _protocol(arg: int) -> None:
    if arg > _NEWEST_PROTOCOL:
        raise ValueError(f"unsupported pickle protocol {arg}")


def _put(m: _Machine, arg: int) -> None:
    if not 0 <= arg < MAX_OPERATIONS:  # a pickler counts up; longer numbers could all share one hash
        raise ValueError(f"a memo of number {str(arg)[:20]}")
    m.memo[arg] = m.stack[-1]


def _memoize(m: _Machine, _: Any) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


_DO: dict[str, _Do] = {
    **_pushing(_same, "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    **_pushing(
        _same, "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"
    ),
    **_pushing(_same, "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    **_pushing(lambda _: None, "NONE"),
    **_pushing(lambda _: True, "NEWTRUE"),
    **_pushing(lambda _: False, "NEWFALSE"),
    **_pushing(lambda _: [], "EMPTY_LIST", "EMPTY_SET"),
    **_pushing(lambda _: {}, "EMPTY_DICT"),
    **_pushing(lambda _: (), "EMPTY_TUPLE"),
    "PROTO": lambda _, arg: _protocol(arg),
    "FRAME": lambda _, __: None,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, arg: m.stack.append(m.memo[arg])),
    **dict.fromkeys(("LIST",), lambda m, _: _after(m, list)),
    **dict.fromkeys(("TUPLE", "FROZENSET"), lambda m, _: _after(m, tuple)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: m.extend(m.since_mark())),
    "MEMOIZE": _memoize,
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.since_mark().clear(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.last(3))),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "DICT": lambda m, _: m.new_dict(),
    "SETITEM": lambda m, _: m.fill(m.last(2)),
    "SETITEMS": lambda m, _: m.fill(m.since_mark()),
    "GLOBAL": lambda m, arg: m.stack.append(m.named(*arg.split(" ", 1))),
    "STACK_GLOBAL": lambda m, _: m.stack.append(m.named(*m.last(2))),
    "REDUCE": lambda m, _: m.make(*m.last(2)),
    "NEWOBJ": lambda m, _: m.make(*m.last(2)),
    "NEWOBJ_EX": lambda m, _: m.newobj_ex(),
    "OBJ": lambda m, _: m.obj(),
    "INST": lambda m, arg: m.inst(arg),
    "BUILD": lambda m, _: m.build(),
    "PERSID": lambda m, arg: m.stack.append(m.persistent(arg)),
    "BINPERSID": lambda m, _: m.stack.append(m.persistent(m.stack.pop())),
    "STOP": lambda m, _: m.stop(),
}


def _after(m: _Machine, kind: Callable[[list[Any]], Any]) -> None:
    items = m.since_mark()
    m.stack.append(kind(items))
