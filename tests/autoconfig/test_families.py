"""What `init` finds in each family of models, held against the family's own YAML."""

from __future__ import annotations

import pytest

from benchmarks.families.proposals import ASPECTS, Found, judge, propose_for, table
from benchmarks.families.zoo import ZOO

# One field that nothing parts is asked about; classes and items look alike.
OTHERWISE = {
    ("stacked channels", "fields"): "asked",
    ("stacked channels", "encoders"): "asked",
    ("stacked channels", "fusion"): "asked",
    ("early fusion, tuples", "fields"): "asked",
    ("early fusion, tuples", "encoders"): "asked",
    ("early fusion, tuples", "fusion"): "asked",
    ("scores of items", "task"): "wrong",
}


@pytest.mark.parametrize("name", ZOO)
def test_what_is_found_is_what_the_family_s_yaml_says(name: str) -> None:
    written = propose_for(ZOO[name])
    found = judge(ZOO[name], written)
    assert found.aspects == {aspect: OTHERWISE.get((name, aspect), "right") for aspect in ASPECTS}
    assert found.runs == ("asked" not in found.aspects.values()), written.verified.refused


def test_rows_that_lack_a_modality_are_not_watched() -> None:
    sections = propose_for(ZOO["missing values"]).observed.sections
    assert {m: s.encoder for m, s in sections.items()} == {"notes": "notes", "labs": "labs"}


def test_the_table_counts_what_is_right() -> None:
    some = {"a": Found(dict.fromkeys(ASPECTS, "right"), True), "b": Found(dict.fromkeys(ASPECTS, "asked"), False)}
    assert table(some).splitlines()[-1] == "| right | 1 of 2 | 1 of 2 | 1 of 2 | 1 of 2 | 1 of 2 |"
