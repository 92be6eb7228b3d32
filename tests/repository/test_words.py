"""Names say something, and what is public is described. What is left of old ones can only become less."""

from __future__ import annotations

import ast

import pytest

from tests.repository.house import ROOT, tree_of
from tests.repository.words import (
    RULES,
    count,
    empty_names,
    left,
    undescribed,
    without_arguments,
    without_shape,
    without_verb,
)


@pytest.mark.parametrize("rule", RULES)
def test_no_file_breaks_a_rule_more_often_than_before(rule: str) -> None:
    allowed, now = left()[rule], count(rule)
    for path, n in now.items():
        names = ", ".join(RULES[rule](tree_of(ROOT / path)))
        assert n <= allowed.get(path, 0), f"{rule}: {path} has {n} of {allowed.get(path, 0)} allowed: {names}"


@pytest.mark.parametrize("rule", RULES)
def test_what_is_allowed_is_still_there(rule: str) -> None:
    allowed, now = left()[rule], count(rule)
    gone = {path: f"{n} allowed, {now.get(path, 0)} there" for path, n in allowed.items() if now.get(path, 0) < n}
    assert not gone, f"{rule}: run `python -m tests.repository.words`, as {gone}"


def test_the_rules_find_what_breaks_them() -> None:
    tree = ast.parse(
        """
FOUND = _told = 1
taken = given_name = 2
def said(own, other, *, known=None): "A (n, d) tensor."
class Held:
    found: int = 0
def shapeless(x: Tensor) -> int: "Of x."
def shaped(x: Tensor) -> Tensor: "Of x (n, d)."
def column(x: Tensor) -> Tensor: "Of x (n,)."
def typed(x: Float[Tensor, "n d"]) -> int: "Of x."
def plain(x: int) -> int: "Of x."
def bare(): ...
class Bare:
    def method(self): ...
    def _private(self): ...
    @property
    def given(self): "Described."
"""
    )
    assert sorted(empty_names(tree)) == ["FOUND", "Held", "_told", "given", "known", "own", "said"]
    assert list(undescribed(tree)) == ["Held", "bare", "Bare", "Bare.method"]
    assert list(without_shape(tree)) == ["shapeless"]
    assert list(without_arguments(tree)) == ["said"]


def test_arguments_and_what_is_returned_are_listed() -> None:
    def broken(text: str, returns: str = "int") -> list[str]:
        return list(without_arguments(ast.parse(f'def f(a, b, *, c) -> {returns}:\n    """Do it.\n\n{text}"""')))

    both = "    Args:\n        a: x.\n\n    Returns:\n        x.\n"
    assert broken(both) == []
    assert broken(both.replace("Returns", "Yields")) == []
    assert broken("    Args:\n        a: x.\n") == ["f"]
    assert broken("    Args:\n        a: x.\n", "None") == []
    assert broken("    Of a, b and c.\n") == ["f"]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Compute it.", True),
        ("Pass it on.", True),
        ("The rank.", False),
        ("Whether it is.", False),
        ("Returns it.", False),
        ("Rows of it.", False),
        ("``x`` again.", False),
        ("lower.", False),
    ],
)
def test_a_docstring_begins_with_a_verb(text: str, right: bool) -> None:
    assert (not list(without_verb(ast.parse(f'def f():\n    """{text}"""')))) == right
    assert not list(
        without_verb(ast.parse(f'class C:\n    """The C."""\n    @property\n    def f(self):\n        """{text}"""'))
    )


def test_an_override_needs_no_docstring_of_its_own() -> None:
    tree = ast.parse("class Mine(Contract):\n 'x'\n def contradictions(self): ...\n def other(self): ...\n")
    assert list(undescribed(tree)) == ["Mine.other"]
