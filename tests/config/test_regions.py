"""``slice`` and ``where``: what they may say, and what is said where they do not follow the grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapsekit.config.load import check_config
from collapsekit.config.regions import SliceRegion, WhereRegion, parse_region, parse_slice, parse_where
from collapsekit.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("[3]", (3,)),
        ("3", (3,)),
        ("[2:4]", (slice(2, 4, None),)),
        ("[..., 0]", (..., 0)),
        ("[:, -1]", (slice(None, None, None), -1)),
        ("[::2]", (slice(None, None, 2),)),
        ("[1:, ..., :-1]", (slice(1, None, None), ..., slice(None, -1, None))),
    ],
)
def test_slices(text: str, index: tuple[object, ...]) -> None:
    assert parse_slice("x", text).index == index


@pytest.mark.parametrize(
    "text", ["", "[]", "[a]", "[1.5]", "[..., ..., 0]", "[1:2:-1]", "[__import__('os')]", "[1] + [2]"]
)
def test_what_is_no_slice(text: str) -> None:
    with pytest.raises(ValueError, match="slice"):
        parse_slice("x", text)


@pytest.mark.parametrize(
    ("text", "field", "sign", "values"),
    [
        ("segment == 0", "segment", "==", (0,)),
        ("segment!=2", "segment", "!=", (2,)),
        ("token_type_ids in [1, 2]", "token_type_ids", "in", (1, 2)),
        ("a.b >= -1", "a.b", ">=", (-1,)),
        ("kind in (3,)", "kind", "in", (3,)),
    ],
)
def test_wheres(text: str, field: str, sign: str, values: tuple[int, ...]) -> None:
    found = parse_where("tokens", text)
    assert (found.field, found.sign, found.values) == (field, sign, values)
    assert found.fields == ("tokens", field)


@pytest.mark.parametrize(
    "text", ["", "segment", "segment = 0", "segment == x", "segment in 3", "segment == [1]", "a == 0 and b == 1"]
)
def test_what_is_no_where(text: str) -> None:
    with pytest.raises(ValueError, match="where"):
        parse_where("tokens", text)


@given(st.integers(-9, 9), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
def test_a_condition_is_read_as_it_is_written(value: int, sign: str) -> None:
    assert parse_where("t", parse_where("t", f"s {sign} {value}").condition) == WhereRegion("t", "s", sign, (value,))


def test_a_modality_is_whole_fields_or_one_part() -> None:
    assert parse_region(("a", "b"), None, None) is None
    assert isinstance(parse_region("a", "[0]", None), SliceRegion)
    with pytest.raises(ValueError, match="keep one"):
        parse_region("a", "[0]", "s == 1")
    with pytest.raises(ValueError, match="names 2"):
        parse_region(("a", "b"), "[0]", None)


def test_a_config_names_the_modality_whose_part_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"modality 'flair': slice '\[x\]' is not"):
        check_config({"modalities": {"t1": None, "flair": {"input": "scans", "slice": "[x]"}}}, base=Path())
