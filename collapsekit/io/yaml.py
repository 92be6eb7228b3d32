"""YAML text to plain data: no tags, no key twice, nothing that unfolds to more than a config can need, and every value is
what it looks like.

YAML 1.1 reads 010 as 8, 1:30:00 as 5400 and no as false; YAML 1.2 reads them otherwise. What has one obvious meaning is
read as that; what has two is refused, with what to write instead.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from collapsekit.errors import ConfigError
from collapsekit.io.limits import MAX_LEVELS, check_plain
from collapsekit.io.safe_text import inline, quote

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000  # keys included; each takes the parser some 20 µs
_MAX_DIRECTIVES = 10
_MAX_DIGITS = 100  # characters; reading decimals takes time quadratic in them
_DIGITS = r"[0-9](?:_?[0-9])*"
_TAG = "tag:yaml.org,2002:"
_TWO_MEANINGS = "tag:collapsekit,two-meanings"
# How a plain value looks -> what it is, tried in this order; any other is text: dates, times and 08:15 too.
_LOOKS = (
    (_TAG + "null", r"~|null|Null|NULL|", "~nN"),
    (_TAG + "bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_TWO_MEANINGS, r"[yY]es|YES|[nN]o|NO|[oO]n|ON|[oO]ff|OFF|[-+]?0[0-9_]+", "yYnNoO-+0"),
    (_TAG + "int", rf"[-+]?(?:{_DIGITS}|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)", "-+0123456789"),
    (
        _TAG + "float",
        rf"[-+]?(?:(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?|{_DIGITS}[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    (_TAG + "merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses tags and too much or too deep a text, and tells values by how they look (``_LOOKS``)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = 0
        self.level = 0
        self.directives = 0

    def scan_directive(self) -> Any:
        self.directives += 1
        if self.directives > _MAX_DIRECTIVES:
            raise _refusal(f"more than {_MAX_DIRECTIVES} lines begin with %", self.get_mark())
        return super().scan_directive()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"the tag {inline(event.tag, 40)} is not allowed: write plain values", event.start_mark)
        self.values += 1
        if self.values > MAX_VALUES:
            raise _refusal(f"it holds more than {MAX_VALUES:,} values", event.start_mark)
        self.level += 1
        if self.level > MAX_LEVELS:
            raise _refusal(f"it is nested more than {MAX_LEVELS} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _LOOKS:
    _Loader.add_implicit_resolver(
        _tag, re.compile(rf"(?:{_pattern})\Z"), [*_first, *([""] if _tag.endswith("null") else [])]
    )


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > _MAX_DIGITS:
        raise _refusal(f"a number of {len(node.value):,} digits is too long", node.start_mark)
    try:
        return int(node.value, 0)
    except ValueError:  # such as 0x_
        raise _refusal(f"{quote(node.value)} is not a number", node.start_mark) from None


def _two_meanings(loader: _Loader, node: yaml.ScalarNode) -> Any:
    text = node.value
    if text[0] in "-+0":
        plain = "-" * text.startswith("-") + (text.replace("_", "").lstrip("-+0") or "0")
        raise _refusal(
            f"{quote(text)} begins with a zero, which some read as octal: write {inline(plain, 40)}, or put it into quotes "
            "where it is text",
            node.start_mark,
        )
    meant = "true" if text.lower() in ("yes", "on") else "false"
    raise _refusal(
        f"{quote(text)} is {meant} to some and text to others: write {meant}, or put it into quotes where it is text",
        node.start_mark,
    )


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


_Loader.add_constructor(_TAG + "int", _integer)
_Loader.add_constructor(_TAG + "merge", _text)  # << that is a value; as a key it is unfolded
_Loader.add_constructor(_TWO_MEANINGS, _two_meanings)


def _check_nodes(loader: _Loader, root: yaml.Node) -> None:
    """Refuse, before anything is made of them, aliases and merge keys that unfold to too much or into themselves, and
    keys that stand twice."""
    count = 1
    todo: list[tuple[yaml.Node, int]] = [(root, 1)]
    while todo:
        node, level = todo.pop()
        if level > MAX_LEVELS:
            raise _refusal(f"its aliases nest more than {MAX_LEVELS} levels deep", node.start_mark)
        below: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            _check_keys(loader, node)
            below = [n for pair in node.value for n in pair]
        count += len(below)
        if count > MAX_VALUES:
            raise _refusal(f"its aliases unfold to more than {MAX_VALUES:,} values", node.start_mark)
        todo += [(n, level + 1) for n in below]


def _check_keys(loader: _Loader, node: yaml.MappingNode) -> None:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == _TAG + "merge":  # <<: *anchor, which the constructor unfolds
            continue
        key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str | int | float | bool):
            raise _refusal("keys must be plain names", key_node.start_mark)
        if key in seen:
            raise _refusal(f"key {inline(repr(key), 80)} stands twice", key_node.start_mark)
        seen.add(key)


def parse_yaml(text: str, origin: str) -> Any:
    """YAML to plain data; no tags are constructed. Raises ConfigError with the line, or the key."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{origin} has {len(text):,} characters, more than the {MAX_BYTES:,} that are read.")
    if not text.strip(" \n"):  # a million empty lines keep the scanner busy for a second
        return None
    try:
        loader = _Loader(text)  # checks its characters
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(loader, node)
        value = loader.construct_document(node)
    except yaml.reader.ReaderError as e:
        raise ConfigError(f"{origin} is not valid YAML: the character U+{e.character:04X} is not allowed.") from None
    except yaml.MarkedYAMLError as e:
        where = f" line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise ConfigError(f"{origin}{where} is not valid YAML: {inline(str(e.problem))}.") from None
    except (ValueError, OverflowError):  # an escape beyond Unicode, a %YAML version of many digits
        raise ConfigError(f"{origin} is not valid YAML: it holds an escape or a version out of range.") from None
    try:
        check_plain(value, values=MAX_VALUES)
    except ValueError as e:
        raise ConfigError(f"{origin} cannot be used: {e}.") from None
    return value
