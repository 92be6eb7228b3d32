"""What is said of a LoRA adapter without its base: by part of the model, as far as there is room and it is no large work."""

from __future__ import annotations

import pytest
import torch

from collapsekit.checkpoint.sidecars import peft
from collapsekit.checkpoint.sidecars.peft import LoraAdapter, LowRank, describe_adapter


def part(path: str) -> LowRank:
    return LowRank(path, torch.ones(2, 3), torch.ones(4, 2), 0.5)


def test_what_an_adapter_adds_is_told_by_part() -> None:
    told = describe_adapter(LoraAdapter((part("vision.0.q"), part("vision.1.q"), part("text.0.q"))))
    assert told[0] == "LoRA, trained on a base without a name"
    assert told[1].startswith("'vision': 2 weights of rank 2, effective rank 1.0, norm ")
    assert told[2].startswith("'text': 1 weight of rank 2")
    assert len(told) == 3  # and nothing of weights in full, of which there are none


def test_only_so_much_is_told_and_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft, "_MOST_GROUPS", 1)
    monkeypatch.setattr(peft, "_MOST_NUMBERS", 5)
    told = describe_adapter(LoraAdapter((part("vision.0.q"), part("text.0.q")), {"head.weight": torch.ones(2)}))
    assert told[1] == "'vision': 1 weight of rank 2, too large to look into"
    assert told[2] == "and 1 more parts"
    assert told[3] == "1 weight in full, such as 'head.weight'"
