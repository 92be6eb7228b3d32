"""tokens: what is read of logits, against torch's own losses; and what a diagnosis says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import diagnose
from collapsekit.adapters.base import Adapter
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.memory import MemorySource
from collapsekit.errors import ConfigError, DataError, NumericsError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.readouts.linear import make_split
from collapsekit.tasks import tokens
from collapsekit.tasks.tokens import Tokens
from tests.tasks.planted import KINDS, diagnosed, need_right, rows, verdicts_of

G = torch.Generator().manual_seed(0)
N, T, V = 30, 6, 11


def labels_of(n: int = N, most: int = 8) -> Tensor:
    """Targets at one to three of the last positions."""
    y = torch.randint(2, most, (n, T), generator=G)
    y[:, :3] = -100
    y[::2, 4], y[::3, 3] = -100, -100
    return y


def of_torch(logits: Tensor, y: Tensor, shift: bool) -> Tensor:
    """The loss of each example by its own call, the mean over its targets."""
    logits, y = (logits[:, :-1], y[:, 1:]) if shift else (logits, y)
    return torch.stack([F.cross_entropy(a.double(), b, ignore_index=-100) for a, b in zip(logits, y, strict=True)])


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("widest", [0, 8192])
def test_the_loss_is_that_of_torch(shift: bool, widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "WIDEST", widest)
    y, logits, task = labels_of(), torch.randn(N, T, V, generator=G), Tokens(shift=shift)
    task.learn({"train": y, "test": y})
    outputs = task.read(logits, y)
    checked = task.check(y, outputs, "test")
    truth = of_torch(logits, y, shift)
    assert torch.allclose(task.loss(task.expect(outputs), checked), truth, atol=1e-5)
    assert float(task.training_loss(outputs, checked)) == pytest.approx(float(truth.mean()), abs=1e-5)
    assert outputs.shape == (N, task.places * task.classes)


@pytest.mark.parametrize("widest", [0, 8192])
def test_the_gradient_is_that_of_torch(widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "WIDEST", widest)
    y, logits, task = labels_of(), torch.randn(N, T, V, generator=G).requires_grad_(), Tokens(shift=True)
    task.learn({"train": y})
    outputs = task.read(logits, y)
    (ours,) = torch.autograd.grad(task.training_loss(outputs, task.check(y, outputs, "train")), [logits])
    (theirs,) = torch.autograd.grad(of_torch(logits, y, shift=True).mean(), [logits])
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("widest", [0, 8192])
def test_metrics_count_tokens_and_whole_answers(widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "WIDEST", widest)
    y = labels_of()
    there = y >= 0
    truth = F.one_hot(y.clamp_min(0), V).float() * 4
    truth[1, 5] = F.one_hot(torch.tensor(2 if int(y[1, 5]) != 2 else 3), V).float() * 4  # one token wrong
    found = {}
    for metric in tokens.METRICS:
        task = Tokens(metric, shift=False)
        task.learn({"train": y})
        outputs = task.read(truth, y)
        found[metric] = task.metric(task.expect(outputs), task.check(y, outputs, "test"))
    assert found["token_accuracy"] == pytest.approx(1 - 1 / int(there.sum()))
    assert found["exact_match"] == pytest.approx(1 - 1 / N)
    mean = F.cross_entropy(truth[there], y[there])
    assert found["perplexity"] == pytest.approx(-float(mean.exp()), rel=1e-5)


def test_tokens_that_training_answers_lack_are_one() -> None:
    y, logits, task = labels_of(most=6), torch.randn(N, T, V, generator=G), Tokens(shift=False)
    task.learn({"train": y})
    new = torch.where(y == 5, 9, y)
    outputs = task.read(logits, new)
    checked = task.check(new, outputs, "test")
    assert int(checked.max()) == task.classes - 1 == 4
    others = logits.softmax(2)[..., [0, 1, 6, 7, 8, 9, 10]].sum(2)
    where = new == 9
    assert torch.allclose(
        task.of_targets(task.expect(outputs), checked)[checked == 4], others[where].double(), atol=1e-5
    )


def test_an_encoder_decoder_is_not_shifted() -> None:
    model = nn.Linear(1, 1)
    assert Tokens().for_model(model).shift is True
    model.config = SimpleNamespace(is_encoder_decoder=True)  # type: ignore[assignment]
    assert Tokens().for_model(model).shift is False
    assert Tokens(shift=True).for_model(model).shift is True


def test_long_answers_have_no_best_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "WIDEST", 0)
    y, task = labels_of(), Tokens(shift=True)
    task.learn({"train": y})
    checked = task.check(y, task.read(torch.randn(N, T, V), y), "train")
    with pytest.raises(NumericsError, match="too many different ones"):
        task.prior(checked, 4)


@pytest.mark.parametrize(
    ("logits", "labels", "kind", "says"),
    [
        (torch.zeros(4, 5, 9), torch.zeros(4, 6).long(), ConfigError, r"labels \(4, 6\)"),
        (torch.zeros(4, 9), torch.zeros(4, 6).long(), ConfigError, "reads logits"),
        (torch.zeros(4, 6, 9), torch.full((4, 6), 9), DataError, "label 9 is no token"),
        (torch.zeros(4, 6, 9), torch.zeros(4, 6), DataError, "a token number at each position"),
        (
            torch.zeros(4, 6, 9),
            torch.full((4, 6), -100),
            DataError,
            "4 of 4 examples of split 'x' have no target token",
        ),
    ],
)
def test_what_does_not_fit_is_refused(logits: Tensor, labels: Tensor, kind: type[Exception], says: str) -> None:
    def asked() -> None:
        task = Tokens(shift=False)
        if not labels.is_floating_point():
            task.learn({"train": labels})
        task.check(labels, task.read(logits, labels), "x")

    with pytest.raises(kind, match=says):
        asked()


def test_inputs_that_hold_the_answers_are_found() -> None:
    y, task = labels_of(), Tokens()
    ids = torch.where(y < 0, torch.randint(20, 30, y.shape, generator=G), y)
    shifted = F.pad(ids[:, :-1], (1, 0))
    prompt = torch.where(y < 0, ids, 1)
    inputs = {"ids": ids, "decoder": shifted, "prompt": prompt, "image": ids.float(), "other": ids[:, :3]}
    assert task.answers_in(inputs, y) == ("ids", "decoder")


class Answers(nn.Module):
    """Reads an image and a prompt's tokens, and answers two tokens: what the image shows, and what the prompt names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Embedding(8, 16), nn.Flatten(), nn.Linear(48, 24), nn.ReLU())
        self.b = nn.Sequential(nn.Linear(10, 24), nn.ReLU())
        self.fuse = nn.Sequential(nn.Linear(48, 48), nn.ReLU())
        self.head = nn.Linear(48, 4 * 12)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.head(self.fuse(torch.cat([self.a(a), self.b(b)], 1)))
        return out.view(-1, 4, 12)


def answered(n: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    shown, asked = torch.randint(0, 4, (n,), generator=g), torch.randint(0, 3, (n,), generator=g)
    image = torch.randn(n, 10, generator=g)
    image[torch.arange(n), shown] += 3
    prompt = torch.randint(3, 8, (n, 3), generator=g)
    prompt[:, 1] = asked
    label = torch.full((n, 4), -100)
    label[:, 2], label[:, 3] = 2 + shown, 7 + asked
    return {"a": prompt, "b": image, "label": label}


def shifted_loss(out: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(out[:, :-1].flatten(0, 1), label[:, 1:].flatten(), ignore_index=-100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_planted_use_is_found(kind: str) -> None:
    need_right(diagnosed(Answers, answered(rows()), shifted_loss, kind, {"task": "tokens"}), kind)


@pytest.mark.slow
def test_answers_in_the_prompt_decide_nothing() -> None:
    data = answered(rows())
    data["a"] = torch.cat([data["a"][:, :2], data["label"][:, 2:]], 1)

    class Wide(Answers):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Embedding(16, 16), nn.Flatten(), nn.Linear(64, 24), nn.ReLU())

    build: Callable[[], Any] = Wide
    report = diagnosed(build, data, shifted_loss, "untrained", {"task": "tokens"})
    assert set(verdicts_of(report).values()) == {"inconclusive"}
    assert any("a of the modalities' inputs holds the answers" in (r.skipped or "") for r in report.results)


@pytest.mark.parametrize("shift", [True, False])
def test_answers_are_hidden_where_they_stand(shift: bool) -> None:
    y, task = labels_of(), Tokens(shift=shift)
    ids = torch.where(y < 0, torch.randint(20, 30, y.shape, generator=G), y)
    later = F.pad(ids[:, :-1], (1, 0), value=25)
    inputs = {"ids": ids, "decoder": later, "image": ids.float(), "prompt": torch.where(y < 0, ids, 1)}
    hidden = task.hide_answers(inputs, y)
    assert torch.equal(hidden["ids"], torch.where(y < 0, ids, 0))
    assert torch.equal(hidden["decoder"], torch.where(F.pad(y[:, :-1] >= 0, (1, 0)), 0, later))
    assert all(hidden[k] is inputs[k] for k in ("image", "prompt"))


class Causal(nn.Module):
    """A language model of one layer whose text goes on with its answer: each position has read all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.image, self.head = nn.Embedding(16, 8), nn.Linear(10, 8), nn.Linear(8, 16)

    def forward(self, ids: Tensor, image: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(ids).cumsum(1) + self.image(image)[:, None])
        return out


def of_causal(encoder: str | None) -> tuple[Adapter, Features]:
    """An untrained one on examples whose answer no prompt says, and the text's encoder, if it is to have one."""
    data = answered(200)
    text = torch.cat([torch.randint(3, 8, (200, 2), generator=G), data["label"][:, 2:]], 1)
    part = torch.tensor([0, 0, 1, 1]).repeat(200, 1)
    columns = {"ids": text, "part": part, "image": data["b"], "label": data["label"]}
    prompt = {"input": "ids", "where": "part == 0"} | ({} if encoder is None else {"encoder": encoder})
    config = {
        "modalities": {"prompt": prompt, "image": {"encoder": "image"}},
        "task": "tokens",
    }
    parts = {"train": {k: v[:120] for k, v in columns.items()}, "test": {k: v[120:] for k, v in columns.items()}}
    adapter = ModuleAdapter(check_config(config, base=Path()), model=Causal().eval(), source=MemorySource(parts))
    return adapter, extract(adapter, "test")


def test_the_model_alone_is_not_given_the_answers() -> None:
    """Else its logits behind the answer would say it, whatever the prompt says."""
    adapter, features = of_causal(None)
    batch = features.inputs
    answers = batch["part"] == 1
    other = {**batch, "ids": torch.where(answers, batch["ids"].roll(1, 0), batch["ids"])}
    assert not torch.equal(other["ids"], batch["ids"])
    labels = torch.where(answers, other["ids"], batch["label"])
    with torch.no_grad():
        alone = adapter.live("prompt", features.recorded, batch)
        assert torch.equal(alone, adapter.live("prompt", features.recorded, {**other, "label": labels}))
        longer = {
            k: F.pad(v, (0, 3), value=-100 if k == "label" else 1 if k == "part" else 0)
            for k, v in batch.items()
            if k != "image"
        }
        longer["image"] = batch["image"]
        longer |= {k: batch[k] for k in batch if k not in adapter.fields.read and k != "label"}
        assert torch.equal(alone, adapter.live("prompt", features.recorded, longer))  # as batches end elsewhere
        outputs = adapter.run(batch).prediction.outputs, adapter.run({**other, "label": labels}).prediction.outputs
    assert not torch.equal(*outputs)  # as the model itself goes on to be given them


def test_encoders_that_read_the_answers_are_not_read_out() -> None:
    assert of_causal(None)[1].leaking == ()
    adapter, features = of_causal("words")
    assert features.leaking == ("prompt",)
    with pytest.raises(NumericsError, match=r"encoders of prompt read the answers.*leave out `encoder`"):
        make_split(adapter, features)


class Repeats(nn.Module):
    """Says the tokens of ``a`` in their places, and one that is not there where ``b`` is above 0."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        said = torch.where(b > 0, 9, a)
        logits = torch.nn.functional.one_hot(said, 10).float()
        return torch.cat([logits, logits[:, :1]], 1)


def test_the_rate_of_wrong_words_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
    code = next(part for part in page.split("```python\n")[1:] if "WordErrors" in part).split("```")[0]
    (tmp_path / "words_of_page.py").write_text(code)
    # Of as many words as are to be said, so that an error is a word that differs.
    (tmp_path / "jiwer.py").write_text(
        "def wer(a, b):\n    a, b = a.split(), b.split()\n    return sum(x != y for x, y in zip(a, b)) / len(a)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 9, (80, 4), generator=g), torch.randn(80, 4, generator=g)
    label = torch.cat([torch.full((80, 1), -100), a], 1)
    config = {"modalities": {"a": None, "b": None}, "task": "words_of_page:WordErrors"}
    data = {"test": {"a": a, "b": b, "label": label}}
    report = diagnose(model=Repeats(), data=data, config=config, profile="quick", probes=["reliance"])
    loss, credit = report.find("reliance.full_loss"), report.find("reliance.shapley", "a")
    assert loss is not None
    assert loss.value == pytest.approx(float((b > 0).float().mean()))
    assert credit is not None
    assert credit.value is not None
    assert credit.value > 0.3
