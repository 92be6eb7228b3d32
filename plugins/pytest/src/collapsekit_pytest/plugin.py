"""The fixtures, found by pytest through the entry point ``pytest11``. Imports pytest and nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest

from collapsekit_pytest import check

if TYPE_CHECKING:
    from collapsekit.ext import Report


@pytest.fixture(scope="session")
def collapsekit_diagnose() -> Callable[..., Report]:
    """``collapsekit_diagnose(model, data, ...) -> Report``, arguments as ``assert_not_collapsed`` has them less ``require``
    and ``allow_inconclusive``; for the same model, data and arguments it is computed once a session."""
    from collapsekit_pytest.remembered import Remembered

    return Remembered()


@pytest.fixture
def assert_not_collapsed(collapsekit_diagnose: Callable[..., Report]) -> Callable[..., Report]:
    """``collapsekit_pytest.assert_not_collapsed`` that remembers its diagnoses for the session."""

    @wraps(check.assert_not_collapsed)  # its name is what pytest shows
    def remembered(*args: Any, **options: Any) -> Report:
        __tracebackhide__ = True
        return check.assert_not_collapsed(*args, diagnose=collapsekit_diagnose, **options)

    return remembered
