"""Rules such as ``modalities.audio.score <= 0.3 and verdict != collapsed``: text to a checked tree. Nothing is executed.

rule       = term {"or" term}           term    = factor {"and" factor}
factor     = "not" factor | "(" rule ")" | comparison
comparison = operand ("<=" | "<" | ">=" | ">" | "==" | "!=") operand
operand    = number | word | 'text' | "text" | reference   (paths.py)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.gating.rules.paths import ROOTS, ReportPath, parse_path
from collapsekit.io.safe_text import quote

MAX_CHARACTERS = 2_000
_MAX_LEVELS = 50
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<op><=|>=|==|!=|<|>)
    | (?P<paren>[()])
    | (?P<text>'[^']*'|"[^"]*")
    | (?P<word>[^\W\d][\w-]*(?:\.(?:[\w*-]+|"[^"]*"|'[^']*')|\[[^\]]*\])*)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Compare:
    """``left op right``; at least one side is a reference."""

    left: ReportPath | float | str
    op: str
    right: ReportPath | float | str

    @property
    def sides(self) -> tuple[ReportPath | float | str, ReportPath | float | str]:
        """Left and right."""
        return self.left, self.right


@dataclass(frozen=True)
class Not:
    """The contrary."""

    of: Node


@dataclass(frozen=True)
class And:
    """``left and right``."""

    left: Node
    right: Node


@dataclass(frozen=True)
class Or:
    """``left or right``."""

    left: Node
    right: Node


Node = Compare | Not | And | Or


@dataclass(frozen=True)
class Token:
    """A piece of a rule and its place in the text."""

    kind: str
    text: str
    at: int


def parse_rule(text: str) -> Node:
    """Return the rule as a tree. Raises ConfigError that shows where it cannot be read, and what could stand there."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"the rule {quote(text)} has {len(text):,} characters, more than {MAX_CHARACTERS:,}.")
    return _Parser(text).whole()


def comparisons(node: Node) -> Iterator[Compare]:
    """Yield every comparison of a rule, as written."""
    if isinstance(node, Compare):
        yield node
    elif isinstance(node, Not):
        yield from comparisons(node.of)
    else:
        yield from comparisons(node.left)
        yield from comparisons(node.right)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth = text, 0, 0
        self.tokens = list(self._tokens())

    def _tokens(self) -> Iterator[Token]:
        at, end = 0, len(self.text.rstrip())
        while at < end:
            found = _TOKEN.match(self.text, at)
            if found is None or found.lastgroup is None:
                raise self.wrong(at, "is nothing a rule is made of")
            yield Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
            at = found.end()

    def wrong(self, at: int, what: str) -> ConfigError:
        """The error that shows the text from ``at`` on."""
        here = quote(self.text[at:].strip(), 40) if self.text[at:].strip() else "its end"
        return ConfigError(
            f"the rule {quote(self.text, 200)} cannot be read: {here} {what}; a rule is, for example, "
            "`modalities.audio.score <= 0.3` or `verdict != collapsed`."
        )

    def next(self, *wanted: str) -> Token | None:
        """The token at hand, if it is one of those words or signs; it is then passed."""
        token = self.tokens[self.place] if self.place < len(self.tokens) else None
        if token is None or (wanted and token.text not in wanted):
            return None
        self.place += 1
        return token

    @property
    def at(self) -> int:
        """Where the token at hand begins."""
        return self.tokens[self.place].at if self.place < len(self.tokens) else len(self.text)

    def whole(self) -> Node:
        node = self.rule()
        if self.place < len(self.tokens):
            chained = self.tokens[self.place].kind == "op"
            raise self.wrong(
                self.at, "is one sign too many: join two comparisons with `and`" if chained else "is too much"
            )
        return node

    def rule(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_LEVELS:
            raise self.wrong(self.at, f"is nested more than {_MAX_LEVELS} levels deep")
        node = self.term()
        while self.next("or"):
            node = Or(node, self.term())
        self.depth -= 1
        return node

    def term(self) -> Node:
        node = self.factor()
        while self.next("and"):
            node = And(node, self.factor())
        return node

    def factor(self) -> Node:
        negated = 0
        while self.next("not"):
            negated += 1
        start = self.at
        if self.next("("):
            node = self.rule()
            if not self.next(")"):
                raise self.wrong(self.at, "stands where `)` should")
        else:
            node = self.comparison()
        if negated and any(r.star for c in comparisons(node) for r in c.sides if isinstance(r, ReportPath)):
            raise self.wrong(
                start, "has a `*` under `not`, which could mean all or one: turn the comparison round instead"
            )
        return Not(node) if negated % 2 else node

    def comparison(self) -> Compare:
        start, left = self.at, self.operand()
        op = self.next("<=", "<", ">=", ">", "==", "!=")
        if op is None:
            raise self.wrong(self.at, "stands where <=, <, >=, >, == or != should")
        right = self.operand()
        said = check_sides(left, op.text, right)
        if said is not None:
            raise self.wrong(start, said)
        return Compare(left, op.text, right)

    def operand(self) -> ReportPath | float | str:
        start, token = self.at, self.next()
        if token is None or token.kind in ("op", "paren") or token.text in ("and", "or", "not"):
            raise self.wrong(start, "stands where a name or a value should")
        if token.kind == "number":
            if not math.isfinite(float(token.text)):
                raise self.wrong(start, "is too large a number")
            return float(token.text)
        if token.kind == "text":
            return token.text[1:-1]
        if re.split(r"[.\[]", token.text)[0] in ROOTS:
            found = parse_path(token.text)
            if isinstance(found, str):
                raise self.wrong(start, found)
            return found
        if re.search(r"[.\[]", token.text):
            near = did_you_mean(re.split(r"[.\[]", token.text)[0], ROOTS)
            raise self.wrong(start, f"begins with none of {', '.join(ROOTS)}{near}")
        return token.text


def check_sides(left: ReportPath | float | str, op: str, right: ReportPath | float | str) -> str | None:
    """Return what is wrong with comparing these; None where nothing is.

    Args:
        left: What stands before the operator.
        op: The operator, as it is written.
        right: What stands behind it.

    Returns:
        The end of a sentence on the rule, or None.
    """
    references = [s for s in (left, right) if isinstance(s, ReportPath)]
    if not references:
        return f"compares no number of the report: name one that begins with {', '.join(ROOTS)}"
    if len(references) == 2 and len({(r.root, r.parts, r.end) for r in references}) == 1:
        return "compares a value with itself, which says nothing of it"
    kinds = {
        ("text" if isinstance(s, str) else "number") if not isinstance(s, ReportPath) else s.kind for s in (left, right)
    }
    if len(kinds) > 1:
        return "compares a number with text"
    if kinds == {"text"} and op not in ("==", "!="):
        return f"orders text with {op}: text can be == or !="
    for word in (s for s in (left, right) if isinstance(s, str)):
        known = references[0].words
        if known is not None and word not in known:
            return f"compares with {quote(word)}{did_you_mean(word, known)}, but a verdict is one of {', '.join(known)}"
    return None
