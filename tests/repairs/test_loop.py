"""The training loop: beside one written out by hand, what it keeps and leaves alone, and losses that are not finite."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from collapsekit.adapters.build import random_states
from collapsekit.errors import ConfigError, NumericsError
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.job import Job, Step, Training
from collapsekit.repairs.training.steps import LossLog
from tests.repairs.making import by_hand, differing, make_job, make_model, plain_loss, plain_stage, run, state


@pytest.mark.parametrize("lively", [False, True], ids=["plain", "lively"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"clip": None},
        {"clip": 0.05},
        {"accumulate": 2, "batch": 8},
        {"accumulate": 3, "batch": 7},
        {"weight_decay": 0.3},
        {"rate": 0.3},
    ],
    ids=str,
)
def test_the_loop_is_a_plain_one_bit_for_bit(tmp_path: Path, how: dict[str, Any], lively: bool) -> None:
    job = make_job(make_model(lively=lively), **how)
    expected, trained, losses = by_hand(job)
    (curve,) = run(job, tmp_path)
    assert differing(state(job), expected) == set()
    assert curve.held == pytest.approx(losses, abs=1e-9)
    assert curve.training[0] is None
    assert curve.training[1:] == pytest.approx(trained, rel=1e-6)
    assert curve.epochs == (0, 1, 2, 3, 4)


def scripted(job: Job, values: list[float]) -> tuple[Callable[[], float], list[dict[str, Tensor]]]:
    """A held-out loss that gives ``values`` in turn, and the states of the model when it was asked for."""
    script, seen = iter(values), []

    def held() -> float:
        seen.append(state(job))
        return next(script)

    return held, seen


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([1.0, 0.9, 0.7, 0.8, 0.75], 2),
        ([1.0, 0.9, 0.8, 0.7, 0.6], 4),
        ([1.0, 1.1, 1.2, 1.1, 1.3], 0),
        ([1.0, 0.99995, 0.99992, 1.0, 1.0], 0),  # less, but not by so much that it counts
        ([1.0, 0.5, 0.5, 0.49995, 0.6], 1),
    ],
)
def test_the_weights_of_the_best_epoch_are_kept(tmp_path: Path, values: list[float], best: int) -> None:
    job = make_job(make_model(lively=True))
    held, seen = scripted(job, values)
    before = state(job)
    (curve,) = run(job, tmp_path, [plain_stage(job, held=held)])
    assert (curve.kept, curve.held) == (best, tuple(values))
    assert differing(state(job), seen[best]) == set()
    assert differing(seen[0], before) == set()
    assert all(differing(seen[i], seen[i + 1]) for i in range(4))  # so that the epochs can be told apart


def test_the_last_epoch_is_kept_where_asked(tmp_path: Path) -> None:
    job = make_job(patience=1)
    held, seen = scripted(job, [1.0, 0.5, 0.8, 0.9, 1.2])
    (curve,) = run(job, tmp_path, [plain_stage(job, held=held, keep="last")])
    assert curve.kept == 4  # patience does not end it either
    assert differing(state(job), seen[4]) == set()


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (3, 7), (9, 12)])
def test_patience_counts_epochs_without_improvement(tmp_path: Path, patience: int, epochs: int) -> None:
    job = make_job(patience=patience, epochs=12)
    held, _ = scripted(job, [1.0, 0.9, 0.8, 0.85, 0.7, *[0.9] * 8])
    (curve,) = run(job, tmp_path, [plain_stage(job, held=held)])
    assert curve.epochs[-1] == epochs
    assert curve.kept == (2 if patience == 1 else 4)


def test_only_the_last_epoch_of_a_cycle_is_kept(tmp_path: Path) -> None:
    """In the middle of its turns, where an adversary has had its own, a model is not what it is to become."""
    job = make_job(patience=20, epochs=8)
    held, seen = scripted(job, [1.0, 0.2, 0.1, 0.9, 0.3, 0.2, 0.8, 0.1, 0.1])
    (curve,) = run(job, tmp_path, [replace(plain_stage(job, held=held), cycle=3)])
    assert curve.kept == 6
    assert differing(state(job), seen[6]) == set()


@pytest.fixture
def counted() -> Iterator[list[float]]:
    """The learning rate of each optimiser step that is made."""
    made: list[float] = []
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: made.append(optimizer.param_groups[0]["lr"]))
    yield made
    handle.remove()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7, 11, 12, 13, None])
def test_training_takes_as_many_optimiser_steps_as_the_settings_say(
    tmp_path: Path, counted: list[float], monkeypatch: pytest.MonkeyPatch, steps: int | None, accumulate: int
) -> None:
    monkeypatch.setattr(loop, "ROUND", 2)
    job = make_job(steps=steps, accumulate=accumulate, batch=16 // accumulate)
    (curve,) = run(job, tmp_path)
    assert len(counted) == min(steps or 12, 12)
    assert curve.epochs[-1] == math.ceil(len(counted) / 3)


def test_rates_in_training_follow_the_schedule(tmp_path: Path, counted: list[float]) -> None:
    job = make_job()
    run(job, tmp_path)
    assert counted == pytest.approx([loop.rate_at(job.training, i / 3, 4) for i in range(12)], rel=1e-12)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    states = []
    for batch, accumulate in ((20, 1), (10, 2), (5, 4)):
        job = make_job(make_model().double(), batch=batch, accumulate=accumulate)
        before = state(job)
        run(job, tmp_path / str(accumulate))
        states.append(state(job))
        assert differing(before, states[-1]) == set(before)
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-9)


def test_a_frozen_submodule_keeps_every_bit(tmp_path: Path) -> None:
    job = make_job(make_model(lively=True), freeze=("encoders.image", "fusion.2"))
    before = state(job)
    run(job, tmp_path)
    frozen = {k for k in before if k.startswith(("encoders.image.", "fusion.2."))}
    assert differing(before, state(job)) == set(before) - frozen
    assert {k for k in frozen if "running_mean" in k}  # there is something in it that only training mode changes


def test_parts_with_nothing_to_train_stay_in_eval_mode(tmp_path: Path) -> None:
    """Batch norm and dropout of a part whose weights the stage does not train: it answers as it did."""
    job = make_job(make_model(lively=True))
    encoder = job.adapter.encoder_module("audio")
    before, modes = state(job), []

    def loss(step: Step) -> Tensor:
        modes.append(
            (encoder.training, job.adapter.encoder_module("image").training, job.adapter.model.fusion.training)
        )
        return plain_loss(job)(step)

    run(job, tmp_path, [plain_stage(job, parameters=list(encoder.parameters()), loss=loss)])
    assert set(modes) == {(True, False, False)}
    assert differing(before, state(job)) == {k for k in before if k.startswith("encoders.audio.")}
    assert not any(m.training for m in job.adapter.model.modules())


def test_unknown_and_complete_freezing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing is left to train"):
        run(make_job(freeze=("encoders", "fusion", "head")), tmp_path)
    with pytest.raises(ConfigError, match=r"--freeze 'encoders\.imag'.*did you mean 'encoders\.image'"):
        run(make_job(freeze=("encoders.imag",)), tmp_path)


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    job = make_job(make_model(lively=True))
    before = random_states()
    run(job, tmp_path)
    assert random_states() == before
    with pytest.raises(NumericsError):
        run(job, tmp_path / "other", [plain_stage(job, loss=lambda step: plain_loss(job)(step) * math.nan)])
    assert random_states() == before


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    def trained(seed: int, where: str) -> dict[str, Tensor]:
        job = make_job(make_model(lively=True), seed=seed)
        torch.rand(len(where))  # whatever was drawn before
        run(job, tmp_path / where)
        return state(job)

    first = trained(5, "a")
    assert differing(first, trained(5, "bcd")) == set()
    assert {"head.weight", "encoders.image.0.weight"} <= differing(first, trained(6, "ef"))


@pytest.mark.parametrize("steps", [None, 7])
def test_results_do_not_depend_on_when_snapshots_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int | None
) -> None:
    found = []
    for every in (1, 2, 3, 200):
        monkeypatch.setattr(loop, "ROUND", every)
        job = make_job(make_model(lively=True), steps=steps)
        found.append((run(job, tmp_path / str(every)), state(job)))
    for curves, after in found[1:]:
        assert curves == found[0][0]
        assert differing(after, found[0][1]) == set()


# ---- losses that are not finite


def failing(job: Job, at: int, tries: int, back_to: int, how: Callable[[Tensor], Tensor]) -> Callable[[Step], Tensor]:
    """A loss that goes wrong on its call number ``at`` for the first ``tries``, after each of which training is back
    behind call ``back_to``."""
    good, now = plain_loss(job), {"call": 0, "failed": 0}

    def loss(step: Step) -> Tensor:
        now["call"] += 1
        if now["call"] == at and now["failed"] < tries:
            now["call"], now["failed"] = back_to, now["failed"] + 1
            return how(good(step))
        return good(step)

    return loss


def not_a_number(loss: Tensor) -> Tensor:
    return loss * math.nan


def infinite(loss: Tensor) -> Tensor:
    """With the gradient it had."""
    return loss + math.inf


def bad_gradient(loss: Tensor) -> Tensor:
    """Of the same value, but with a gradient of NaN."""
    made = loss + torch.sqrt(loss * 0.0)
    assert bool(torch.isfinite(made))
    return made


BROKEN = [not_a_number, infinite, bad_gradient]


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("tries", [1, 2, 3])
@pytest.mark.parametrize("at", [1, 5, 7, 12])
def test_back_to_the_last_epoch_with_half_the_rate(tmp_path: Path, at: int, tries: int, how: Any) -> None:
    """A step that fails in epoch e: all from e on is as if trained with the rate halved so often."""
    job = make_job(make_model(lively=True))
    epoch = (at - 1) // 3
    expected, trained, losses = by_hand(job, lambda now, _: tries if now >= epoch else 0)
    (curve,) = run(job, tmp_path, [plain_stage(job, loss=failing(job, at, tries, 3 * epoch, how))])
    assert differing(state(job), expected) == set()
    assert curve.held == pytest.approx(losses, abs=1e-9)
    assert curve.training[1:] == pytest.approx(trained, rel=1e-6)
    assert curve.note == f"the learning rate was halved {tries} times"


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("clip", [1.0, None])
def test_back_to_the_last_snapshot_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any, clip: float | None
) -> None:
    monkeypatch.setattr(loop, "ROUND", 1)
    job = make_job(make_model(lively=True), clip=clip)
    expected, trained, _ = by_hand(job, lambda epoch, step: 1 if (epoch, step) >= (1, 1) else 0)
    (curve,) = run(job, tmp_path, [plain_stage(job, loss=failing(job, 5, 1, 4, how))])
    assert differing(state(job), expected) == set()
    assert curve.training[1:] == pytest.approx(trained, rel=1e-6)


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_beyond_help_within_an_epoch_goes_back_to_the_best_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    monkeypatch.setattr(loop, "ROUND", 1)
    job = make_job(make_model(lively=True))
    good, seen = plain_loss(job), list[dict[str, Tensor]]()

    def loss(step: Step) -> Tensor:
        seen.append(copy.deepcopy(state(job)))
        return how(good(step)) if len(seen) in (5, 6) else good(step)  # the second step of epoch 2, and that again

    (curve,) = run(job, tmp_path, [plain_stage(job, loss=loss)])
    assert curve.note == "the learning rate was halved 2 times"
    assert differing(seen[5], seen[4]) == set()  # the step within the epoch
    assert differing(seen[6], seen[3]) == set()  # its beginning, which is the end of epoch 1, the best by then
    assert curve.epochs == (0, 1, 2, 3, 4)
    assert len(seen) == 12 + 1 + 2


def one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and not re.search(r"[.!?] [A-Z]", text)


@pytest.mark.parametrize("how", BROKEN)
def test_a_fourth_time_is_an_error(tmp_path: Path, how: Any) -> None:
    job = make_job()
    with pytest.raises(NumericsError) as caught:
        run(job, tmp_path, [plain_stage(job, loss=failing(job, 5, 4, 3, how))])
    said = str(caught.value)
    assert one_sentence(said), said
    assert "training finetune (plain) diverged: the training loss was infinite or NaN in epoch 2, step 2, with" in said
    assert "down to 0.0025" in said
    assert all(bool(torch.isfinite(v).all()) for v in state(job).values())


@pytest.fixture
def looks_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device, where losses are read at the end of a round."""
    real = LossLog.__init__

    def later(self: LossLog, *args: Any) -> None:
        real(self, *args)
        self.later = True

    monkeypatch.setattr(LossLog, "__init__", later)


@pytest.mark.usefixtures("looks_later")
@pytest.mark.parametrize("how", [None, *BROKEN])
def test_losses_read_many_at_once_give_the_same(tmp_path: Path, how: Any) -> None:
    job = make_job(make_model(lively=True))
    expected, trained, losses = by_hand(job, lambda now, _: 1 if how is not None and now >= 1 else 0)
    (curve,) = run(job, tmp_path, [plain_stage(job, loss=failing(job, 6, 1 if how else 0, 3, how))])
    assert differing(state(job), expected) == set()
    assert curve.held == pytest.approx(losses, abs=1e-9)
    assert curve.training[1:] == pytest.approx(trained, rel=1e-6)


@pytest.mark.usefixtures("looks_later")
def test_a_step_that_is_read_later_is_named(tmp_path: Path) -> None:
    job = make_job()
    with pytest.raises(
        NumericsError, match=r"infinite or NaN in epoch 2, step 3, with the learning rate halved 3 times"
    ):
        run(job, tmp_path, [plain_stage(job, loss=failing(job, 6, 4, 3, not_a_number))])


@pytest.mark.usefixtures("looks_later")
def test_an_error_behind_what_is_not_finite_is_not_the_models(tmp_path: Path) -> None:
    """Weights are NaN by then: a model that cannot take that is not to blame. An error by itself is told."""
    job, calls = make_job(), list[int]()
    good = plain_loss(job)

    def loss(step: Step) -> Tensor:
        calls.append(step.epoch)
        if len(calls) == 6:
            raise ValueError("cannot take NaN")
        return good(step) * (math.nan if len(calls) == 5 else 1.0)

    (curve,) = run(job, tmp_path, [plain_stage(job, loss=loss)])
    assert curve.note == "the learning rate was halved 1 times"

    def broken(_: Step) -> Tensor:
        raise ValueError("always")

    with pytest.raises(ValueError, match="always"):
        run(make_job(), tmp_path / "again", [plain_stage(job, loss=broken)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_held_out_loss_that_is_not_finite(tmp_path: Path, value: float) -> None:
    job = make_job(make_model(lively=True))
    expected, _, losses = by_hand(job, lambda epoch, _: 2 if epoch >= 1 else 0)
    answers, real = iter([None, None, value, value, None, None, None]), job.held_loss

    def held() -> float:
        wrong = next(answers)
        return real() if wrong is None else wrong

    (curve,) = run(job, tmp_path, [plain_stage(job, held=held)])
    assert differing(state(job), expected) == set()
    assert curve.held == pytest.approx(losses, abs=1e-9)


def test_a_held_out_loss_that_stays_not_finite(tmp_path: Path) -> None:
    job = make_job()
    held, seen = scripted(job, [1.0, 0.9, *[math.nan] * 4])
    with pytest.raises(NumericsError, match=r"the held-out loss was infinite or NaN in epoch 2") as caught:
        run(job, tmp_path, [plain_stage(job, held=held)])
    assert one_sentence(str(caught.value))
    assert len(seen) == 6  # once before, one good epoch, and four tries


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_before_any_training(tmp_path: Path, value: float) -> None:
    job = make_job()
    before = state(job)
    with pytest.raises(NumericsError, match=r"the held-out loss of finetune \(plain\) is .* before any training") as e:
        run(job, tmp_path, [plain_stage(job, held=lambda: value, loss=lambda _: pytest.fail("it was trained"))])
    assert one_sentence(str(e.value))
    assert differing(before, state(job)) == set()


# ---- schedules


@pytest.mark.parametrize("epochs", [1, 2, 7, 30])
def test_cosine_is_that_of_torch(epochs: int) -> None:
    how = Training(rate=0.4, epochs=epochs)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs + 1):
        assert loop.rate_at(how, epoch, epochs) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()
    assert loop.rate_at(how, epochs + 0.5, epochs) == 0.0
    assert loop.rate_at(how, epochs / 2, epochs) == pytest.approx(0.2)


def test_constant_and_papers_schedule() -> None:
    for epoch in (0, 0.5, 99.99, 100, 199.9, 200, 1250.5):
        assert loop.rate_at(Training(rate=0.3, schedule="constant"), epoch, 10) == 0.3
        expected = 0.3 * 0.9 ** math.floor(epoch / 100)
        assert loop.rate_at(Training(rate=0.3, schedule="paper"), epoch, 10) == pytest.approx(expected, rel=1e-12)


def test_amp_trains_too(tmp_path: Path) -> None:
    job = make_job(amp=True)
    dtypes = []

    def loss(step: Step) -> Tensor:
        outputs = job.run(step).outputs
        dtypes.append(outputs.dtype)
        return job.task_loss(outputs, step)

    (curve,) = run(job, tmp_path, [plain_stage(job, loss=loss)])
    assert set(dtypes) == {torch.bfloat16}
    assert curve.held[curve.kept] < curve.held[0] - 0.05
    assert all(v.dtype == torch.float32 for v in state(job).values())
