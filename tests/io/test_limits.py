from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collapsekit.io.json import json_text

text = st.text(st.characters(), max_size=12) | st.sampled_from(["##[error]x", "\x1b]0;x\x07", "\u202e", "\x9b31m"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@given(values)
@example({"a\x7f\x85": ["\ud800", "##[", "\n::error::x", "é", "\u2028"]})
def test_json_reads_back_the_same_and_nothing_in_it_acts(value: Any) -> None:
    written = json_text(value)
    assert json.loads(written) == value
    assert all(line.isprintable() for line in written.split("\n"))
    assert "##[" not in written
    assert not any(line.lstrip().startswith("::") for line in written.split("\n"))
    written.encode("utf-8")


def test_json_of_what_can_be_read_is_as_it_was() -> None:
    assert json_text({"é": ["日本", 1.5]}) == '{\n "é": [\n  "日本",\n  1.5\n ]\n}'
    assert json_text({"on": date(2020, 1, 2)}, default=str) == '{\n "on": "2020-01-02"\n}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text([float("nan")])
