"""Labels of sequences that end elsewhere in each batch, and labels that only a collate_fn makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.factory import batch_form
from collapsekit.data.memory import MemorySource
from collapsekit.errors import ConfigError, DataError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.features.labels import close_up, pad_labels
from collapsekit.interventions.replay import predict

N, WORDS = 18, 9
EXAMPLES: dict[str, Any] = {
    "modalities": {"a": {"input": "prompt"}, "b": {"input": "vector"}},
    "task": "tokens",
    "data": {"edit": "examples", "label": "labels"},
}


class Decoder(nn.Module):
    """Logits at each token: of the sum of the tokens up to there, and of a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.vector, self.head = nn.Embedding(WORDS, 6), nn.Linear(3, 6), nn.Linear(6, WORDS)

    def forward(self, ids: Tensor, vector: Tensor) -> Tensor:
        there = (ids > 0).float()[..., None]
        return self.head(((self.table(ids) * there).cumsum(1) + self.vector(vector)[:, None]).tanh())


def examples() -> list[dict[str, Any]]:
    g = torch.Generator().manual_seed(0)
    return [
        {
            "prompt": torch.randint(1, WORDS, (2 + i % 5,), generator=g),
            "vector": torch.randn(3, generator=g),
            "answer": torch.tensor([1 + i % 3, 1 + i % 2][: 1 + i % 2]),
        }
        for i in range(N)
    ]


def collate(rows: list[Any], *, left: bool = False, of: str = "answer") -> dict[str, Tensor]:
    """Prompt and answer in one sequence, -100 where nothing is asked, padded to the longest on the one side or the other."""
    ids = [torch.cat([e["prompt"], e["answer"]]) for e in rows]
    labels = [torch.cat([torch.full_like(e["prompt"], -100), e[of][: len(e["answer"])]]) for e in rows]
    side: Any = "left" if left else "right"

    def pad(values: list[Tensor], value: int) -> Tensor:
        return nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=value, padding_side=side)

    return {"ids": pad(ids, 0), "vector": torch.stack([e["vector"] for e in rows]), "labels": pad(labels, -100)}


def opened(data: Any, config: dict[str, Any], size: int = 256) -> tuple[ModuleAdapter, Features]:
    checked = check_config({**config, "data": {**config["data"], "batch_size": size}}, base=Path.cwd())
    adapter = ModuleAdapter(checked, model=Decoder(), source=MemorySource({"test": data}, batch_form(checked)))
    return adapter, extract(adapter, "test")


def loader(size: int, **how: Any) -> Any:
    return torch.utils.data.DataLoader(examples(), batch_size=size, collate_fn=lambda rows: collate(rows, **how))  # type: ignore[arg-type]


def by_hand(prompts: list[Tensor], rows: list[Any]) -> Tensor:
    """The mean log-probability of each answer behind a prompt, one example at a time, without padding."""
    model, out = Decoder().eval(), []
    for prompt, e in zip(prompts, rows, strict=True):
        batch = collate([{**e, "prompt": prompt}])
        log_p = model(batch["ids"], batch["vector"]).log_softmax(2)[0, len(prompt) - 1 : -1]
        out.append(log_p.gather(1, e["answer"][:, None]).mean())
    return torch.stack(out)


def of_own(features: Features) -> list[Any]:
    """The examples in the order of the features."""
    known = examples()
    return [
        known[int((torch.stack([e["vector"] for e in known]) == v).all(1).nonzero())] for v in features.inputs["vector"]
    ]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("size", [4, 7, N])
def test_labels_of_a_collate_fn_stand_where_it_puts_them(size: int, left: bool) -> None:
    adapter, features = opened(loader(size, left=left), EXAMPLES, size)
    rows, order = of_own(features), torch.arange(N).roll(1)
    task = adapter.task
    for swap, prompts in (
        ({}, [e["prompt"] for e in rows]),
        ({"a": order}, [rows[i]["prompt"] for i in order.tolist()]),
    ):
        loss = task.loss(task.expect(predict(adapter, features, swap=swap).outputs), features.targets)
        with torch.no_grad():
            assert torch.allclose(loss, -by_hand(prompts, rows).double(), atol=1e-5)


def test_what_is_kept_does_not_depend_on_what_a_batch_was_padded_to() -> None:
    found = [opened(loader(size, left=True), EXAMPLES, size)[1] for size in (3, N)]
    assert found[0].digest == found[1].digest
    assert torch.equal(found[0].targets, found[1].targets)


def test_labels_that_are_made_of_a_modality_are_refused() -> None:
    adapter, features = opened(loader(6, of="prompt"), EXAMPLES)
    with pytest.raises(ConfigError, match="give the answer a field of its own"):
        predict(adapter, features, swap={"a": torch.arange(N).roll(1)})


def test_an_example_without_labels_is_refused_where_the_collate_fn_makes_none() -> None:
    def without(rows: list[Any]) -> Any:
        return {k: v for k, v in collate(rows).items() if k != "labels"}

    data = torch.utils.data.DataLoader(examples(), batch_size=6, collate_fn=without)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no 'labels'"):
        opened(data, EXAMPLES)


def test_batches_that_end_elsewhere_are_scored_as_one_batch_is() -> None:
    config = {
        "modalities": {"a": {"input": "ids"}, "b": {"input": "vector"}},
        "task": "tokens",
        "data": {"label": "labels"},
    }
    short_last = sorted(examples(), key=lambda e: -len(e["prompt"]))
    several = [collate(short_last[i : i + 5]) for i in range(0, N, 5)]
    assert len({b["labels"].shape[1] for b in several}) > 1
    for data in (several, several[::-1]):
        adapter, features = opened(data, config)
        task = adapter.task
        loss = task.loss(task.expect(features.outputs), features.targets)
        rows = of_own(features)
        with torch.no_grad():
            assert torch.allclose(loss, -by_hand([e["prompt"] for e in rows], rows).double(), atol=1e-5)


def test_closing_up_keeps_targets_and_one_place_before_them() -> None:
    labels = torch.tensor([[-100, -100, 3, -100, 4], [-100, 5, 6, -100, -100], [7, 8, -100, -100, -100]])
    found = close_up(labels)
    assert found.tolist() == [[-100, 3, -100, 4], [-100, 5, 6, -100], [7, 8, -100, -100]]
    assert torch.equal(close_up(found), found)
    classes = torch.tensor([[0, 1], [1, 0]])
    assert close_up(classes) is classes
    assert pad_labels(classes, 3).tolist() == [[0, 1, -100], [1, 0, -100]]
