"""Names from files, as they are shown."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from collapsekit.io.safe_text import clean, display_names, some

BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"


@given(st.text(max_size=60), st.integers(1, 30))
def test_what_is_cleaned_is_short_and_printable_and_stays(text: str, limit: int) -> None:
    once = clean(text, limit)
    assert len(once) <= limit
    assert not [c for c in once if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDIRECTIONAL]
    assert clean(once, limit) == once


def test_names_that_look_the_same_are_numbered() -> None:
    names = ["a\x1b", "a\\x1b", "b", "a\\x1b (2)", "a\x1b"]
    assert display_names(names) == {
        "a\x1b": "a\\x1b",
        "a\\x1b": "a\\x1b (2)",
        "b": "b",
        "a\\x1b (2)": "a\\x1b (2) (2)",
    }


@given(st.lists(st.text(alphabet="a\x00\\x0(2) ", max_size=6), max_size=8))
def test_no_two_names_are_shown_alike(names: list[str]) -> None:
    shown = display_names(names)
    assert list(shown) == list(dict.fromkeys(names))
    assert len(set(shown.values())) == len(shown)


def test_of_many_names_the_first_are_told_and_the_rest_counted() -> None:
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
