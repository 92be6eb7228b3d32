"""Holm's correction against statsmodels, and what makes it one."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.holm import holm

P = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def loaded() -> None:
    """What there is by now is left out of the garbage collection that statsmodels asks for in every call."""
    gc.freeze()


@pytest.mark.usefixtures("loaded")
@given(P)
def test_is_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@given(P)
def test_never_smaller_than_the_p_values_and_in_their_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_of_none_is_none() -> None:
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
def test_refuses_what_is_no_p_value(wrong: float) -> None:
    with pytest.raises(NumericsError, match="p-value"):
        holm([0.5, wrong])
