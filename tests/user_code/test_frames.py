"""Where a user's own code raised, through libraries and through a loader's worker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from collapsekit.errors import ConfigError
from collapsekit.user_code.frames import one_line, place_of, user_traceback

HERE = Path(__file__).name


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.zeros(3, 3)  # the line


class Rows(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> int:
        raise KeyError("column")  # the row


def line_of(comment: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.endswith(f"# {comment}"))


def test_the_last_line_of_ones_own_is_named_though_torch_raised() -> None:
    with pytest.raises(RuntimeError) as caught:
        nn.Sequential(Broken())(torch.zeros(2, 2))
    assert place_of(caught.value).endswith(f"{HERE}:{line_of('the line')}")
    assert one_line(caught.value).endswith(f"{HERE}:{line_of('the line')})")


def test_a_line_in_a_worker_of_a_loader_is_named() -> None:
    with pytest.raises(KeyError) as caught:
        list(DataLoader(Rows(), num_workers=1))
    caught.value.__traceback__ = None  # the test's own frame is none of the user's
    assert place_of(caught.value).endswith(f"{HERE}:{line_of('the row')}")


def test_an_error_of_a_library_alone_has_no_place() -> None:
    error = ValueError("nothing of yours")
    assert place_of(error) == ""
    assert one_line(error) == "ValueError: nothing of yours"
    assert user_traceback(error) == ""


def test_the_traceback_has_the_users_lines_and_no_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        nn.Sequential(Broken())(torch.zeros(2, 2))
    error = ConfigError("the model's forward failed.")
    error.__cause__ = caught.value
    text = user_traceback(error)
    assert "return x @ torch.zeros(3, 3)" in text
    assert "in forward" in text
    assert "_call_impl" not in text
    assert text.splitlines()[-1].startswith("RuntimeError: ")
