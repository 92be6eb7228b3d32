"""The natural benchmark's parts: the definition of the truth on worlds where it is known, exchanges and tables against
outside code, recipes, and work that goes on where it was left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score
from torch import Tensor

from benchmarks.natural import __main__ as command
from benchmarks.natural import oracle, table
from benchmarks.natural.data import Data, load, only, standardise
from benchmarks.natural.exchange import losses, prior, sureness
from benchmarks.natural.models import Natural, encoder
from benchmarks.natural.oracle import Asked, Oracle, asked_of, evidence
from benchmarks.natural.peers import redundancy
from benchmarks.natural.settings import SETTINGS, Setting
from benchmarks.natural.training import Fit, _dropped, arguments, fit, fit_of
from benchmarks.natural.truth import STATES, Evidence, truth
from benchmarks.planted.models import FUSIONS
from benchmarks.records import read_lines
from collapsekit.features.features import Features

TINY = Setting("tiny", "none", ("a", "b"), "concat", width=8, hidden=16, rate=5e-3, epochs=12)


def world(seed: int = 0, n: int = 240, noise: str = "") -> Data:
    """Three classes that ``a`` and ``b`` both show, each with noise of its own; the modality ``noise`` shows nothing."""
    g = torch.Generator().manual_seed(seed)
    splits = {}
    for split, count in (("train", n), ("val", n // 2), ("test", n)):
        label = torch.randint(3, (count,), generator=g)
        part = {}
        for i, m in enumerate(("a", "b")):
            code = torch.eye(3 + i)[label] * (0.0 if m == noise else 2.0)
            part[m] = code + torch.randn(count, 3 + i, generator=g)
        splits[split] = {**part, "label": label}
    return Data(splits, 3)


def stated(alone: float, added: float, due: float, ratio: float, *, n: int = 400, spread: float = 0.0) -> Evidence:
    """Evidence of these means in shares of a prior's loss of 2, ``spread`` in units of the same."""
    g = torch.Generator().manual_seed(0)

    def column(mean: float) -> Tensor:
        noise = torch.randn(n, generator=g, dtype=torch.float64)
        return 2 * (mean + spread * (noise - noise.mean()))

    return Evidence(torch.full((n,), 2.0), column(alone), column(added), column(due), column(due * ratio))


@pytest.mark.parametrize(
    ("alone", "added", "due", "ratio", "state"),
    [
        (0.019, 0.019, 0.0, 0.0, "nothing"),
        (0.021, 0.0, 0.3, 0.0, "between"),
        (0.0, 0.021, 0.3, 0.0, "between"),
        (0.051, 0.0, 0.3, 0.14, "ignored"),
        (0.0, 0.051, 0.3, 0.14, "ignored"),
        (0.5, 0.2, 0.3, -0.5, "ignored"),
        (0.5, 0.2, 0.3, 0.16, "between"),
        (0.5, 0.2, 0.3, 0.39, "between"),
        (0.5, 0.2, 0.3, 0.41, "used"),
        (0.5, 0.0, 0.009, 0.0, "between"),
        (0.5, 0.0, 0.009, 3.0, "between"),
    ],
)
def test_the_margins_are_those_that_were_stated(
    alone: float, added: float, due: float, ratio: float, state: str
) -> None:
    found = truth(stated(alone, added, due, ratio))
    assert found.state == found.otherwise == state
    assert found.agreed == 1
    assert (found.alone, found.added, found.due) == pytest.approx((alone, added, due))
    assert found.ratio == pytest.approx(ratio)


def test_what_examples_do_not_settle_is_unsure() -> None:
    near = stated(0.5, 0.2, 0.3, 0.42, spread=0.5)
    found = truth(near)
    assert (found.state, found.otherwise) == ("unsure", "used")
    assert found.agreed < 0.95
    assert truth(stated(0.5, 0.2, 0.3, 0.42, spread=0.01)).state == "used"


def test_the_truth_does_not_depend_on_the_scale_of_the_loss() -> None:
    one = stated(0.5, 0.2, 0.3, 0.3, spread=0.1)
    ten = Evidence(*(10 * v for v in (one.prior, one.alone, one.added, one.due, one.use)))
    assert truth(one).agreed == truth(ten).agreed
    assert truth(one).ratio == pytest.approx(truth(ten).ratio)


def true_states(data: Data, trained_on: Data, folder: Path) -> dict[str, str]:
    """The truth of a model of the tiny setting that was trained on ``trained_on``, on the tests of ``data``."""
    found = Oracle(TINY, data, folder)
    for asked in asked_of(TINY.modalities, seeds=(7,)):
        found.run(asked)
    model, _ = fit(TINY, standardise(trained_on), fit_of(TINY), seed=1)
    has = losses(model, standardise(data), "test")
    use = {m: has.use(m) for m in TINY.modalities}
    return {m: truth(e).state for m, e in evidence(TINY, data, found.runs, use).items()}


def test_the_truth_is_that_of_worlds_where_it_is_known(tmp_path: Path) -> None:
    data = world()
    assert true_states(data, data, tmp_path) == {"a": "used", "b": "used"}
    splits = {s: dict(part) for s, part in data.splits.items()}
    for number, part in enumerate(splits.values()):
        part["b"] = part["b"][torch.randperm(len(part["b"]), generator=torch.Generator().manual_seed(number))]
    ignoring = Data({**splits, "test": data.splits["test"]}, 3)
    assert true_states(data, ignoring, tmp_path) == {"a": "used", "b": "ignored"}
    silent = world(noise="b")
    assert true_states(silent, silent, tmp_path) == {"a": "used", "b": "nothing"}


def test_exchanged_losses_are_those_of_the_whole_model_on_exchanged_inputs() -> None:
    data = standardise(world())
    model, _ = fit(TINY, data, fit_of(TINY), seed=3)
    found, test, val = losses(model, data, "test", draws=3), data.splits["test"], data.splits["val"]
    factor = sureness("classification", model(a=val["a"], b=val["b"]).detach(), val["label"])

    def expected(changed: tuple[str, ...]) -> np.ndarray:  # type: ignore[type-arg]
        total = []
        for k in range(3):
            order = torch.randperm(len(test["label"]), generator=torch.Generator().manual_seed(k))
            x = {m: test[m][order] if m in changed else test[m] for m in ("a", "b")}
            total.append((factor * model(**x).detach().double()).softmax(1))
        return torch.stack(total).mean(0).numpy()

    label = test["label"].numpy()
    assert float(found.full.mean()) == pytest.approx(log_loss(label, expected(())), rel=1e-6)
    assert float(found.none.mean()) == pytest.approx(log_loss(label, expected(("a", "b"))), rel=1e-6)
    assert float(found.without["a"].mean()) == pytest.approx(log_loss(label, expected(("a",))), rel=1e-6)
    assert float(found.only["a"].mean()) == pytest.approx(log_loss(label, expected(("b",))), rel=1e-6)
    assert found.right[""] == pytest.approx(accuracy_score(label, expected(()).argmax(1)))
    assert found.right["b"] == pytest.approx(accuracy_score(label, expected(("b",)).argmax(1)))
    by_hand = ((found.without["a"] - found.full) + (found.none - found.only["a"])) / 2
    assert torch.allclose(found.use("a"), by_hand)


def test_the_factor_makes_a_model_as_sure_as_it_is_right() -> None:
    label = torch.randint(3, (3000,), generator=torch.Generator().manual_seed(0))
    outputs = 1.5 * torch.eye(3)[label] + torch.randn(3000, 3, generator=torch.Generator().manual_seed(1))
    best = sureness("classification", outputs, label)
    assert sureness("classification", 4 * outputs, label) == pytest.approx(best / 4, rel=1e-2)
    assert sureness("regression", outputs, label) == 1


def test_losses_of_values_are_squared_errors_and_r2() -> None:
    g = torch.Generator().manual_seed(0)
    part = {"a": torch.randn(80, 3, generator=g), "b": torch.randn(80, 2, generator=g)}
    part["label"] = part["a"][:, :1] + part["b"][:, :1]
    data = Data(dict.fromkeys(("train", "val", "test"), part), 1, "regression")
    model, _ = fit(TINY, data, fit_of(TINY), seed=0)
    found, answer = losses(model, data, "test", draws=2), model(a=part["a"], b=part["b"]).detach().numpy()
    assert float(found.full.mean()) == pytest.approx(mean_squared_error(part["label"], answer))
    assert found.right[""] == pytest.approx(r2_score(part["label"], answer), abs=1e-6)
    assert float(prior(data, "test").mean()) == pytest.approx(float(part["label"].var(correction=0)), rel=1e-5)


def test_the_prior_is_the_training_split_s_share_of_each_class() -> None:
    data = world()
    share = np.bincount(data.splits["train"]["label"], minlength=3) / 240
    label = data.splits["test"]["label"].numpy()
    assert float(prior(data, "test").mean()) == pytest.approx(log_loss(label, np.tile(share, (240, 1))))


def test_dropping_leaves_each_example_something_and_drops_about_the_share() -> None:
    torch.manual_seed(0)
    features = {m: torch.ones(4000, 2) for m in ("a", "b", "c")}
    dropped = _dropped(features, 0.3)
    kept = torch.stack([v[:, 0] for v in dropped.values()], 1)
    assert int(kept.sum(1).min()) == 1
    assert float(kept.mean()) == pytest.approx(0.7 + 0.3 / 3, abs=0.02)
    assert all(torch.equal(v[:, 0], v[:, 1]) for v in dropped.values())
    assert _dropped(features, 0.0) is features


def test_training_is_what_is_asked_of_it() -> None:
    data = standardise(world())
    torch.manual_seed(5)
    fresh = Natural(**arguments(TINY, data)).state_dict()
    still, _ = fit(TINY, data, Fit(rate=1e-2, rates={"b": 0.0}, epochs=2), seed=5)
    moved = {k for k, v in still.state_dict().items() if not torch.equal(v, fresh[k])}
    assert moved == {k for k in fresh if not k.startswith("encoders.b.")}
    start = {"a": {k: v + 1 for k, v in still.encoders["a"].state_dict().items()}}
    begun, _ = fit(TINY, data, Fit(rate=0.0, epochs=1, start=start), seed=6)
    assert all(torch.equal(v, start["a"][k]) for k, v in begun.encoders["a"].state_dict().items())
    plain, helped = (fit(TINY, data, Fit(epochs=1, helped=h), seed=1)[0] for h in (0.0, 0.5))
    assert not torch.equal(plain.encoders["a"][0].weight, helped.encoders["a"][0].weight)
    noisy, again = (fit(TINY, data, Fit(epochs=1, noise=0.5), seed=1)[0] for _ in range(2))
    assert torch.equal(noisy.encoders["a"][0].weight, again.encoders["a"][0].weight)
    assert not torch.equal(plain.encoders["a"][0].weight, noisy.encoders["a"][0].weight)


def test_training_ends_when_validation_gets_no_better_and_keeps_the_best() -> None:
    data = world(n=60)
    patient, spent = fit(TINY, data, Fit(rate=3e-2, epochs=60, patience=3), seed=0)
    last, all_of_them = fit(TINY, data, Fit(rate=3e-2, epochs=60, patience=None), seed=0)
    assert spent < all_of_them == 60
    held = [losses(m, data, "val", draws=1).full.mean() for m in (patient, last)]
    assert held[0] <= held[1] + 0.05


@pytest.mark.parametrize("shape", [(7,), (3, 64), (6, 30), (1, 28, 28), (6, 32, 32), (3, 24, 20)])
def test_an_encoder_reads_inputs_of_each_shape(shape: tuple[int, ...]) -> None:
    features = encoder(shape, 16, 8)(torch.randn(5, *shape))
    assert features.shape == (5, 8)


def test_settings_are_enough_and_each_is_one_that_can_be_made() -> None:
    counted = [s for s in SETTINGS if s.counted]
    assert 5 * len(counted) >= 60
    assert len({s.name for s in SETTINGS}) == len(SETTINGS)
    assert {s.fusion for s in SETTINGS} <= set(FUSIONS)
    assert len({s.fusion for s in counted}) >= 5
    assert all(set(s.rates) <= set(s.modalities) for s in SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_a_model_of_each_setting_reads_its_data(setting: Setting) -> None:
    try:
        data = load(setting)
    except FileNotFoundError as missing:
        pytest.skip(f"its data is not at hand: {missing}")
    few = Data({s: {k: v[:6] for k, v in part.items()} for s, part in data.splits.items()}, data.outputs, data.task)
    model = Natural(**arguments(setting, few)).eval()
    with torch.no_grad():
        assert model(**{m: few.splits["test"][m] for m in setting.modalities}).shape == (6, data.outputs)
    assert data.modalities == setting.modalities
    assert {"train", "val", "test"} <= set(data.splits)
    assert all(torch.isfinite(v).all() for part in standardise(few).splits.values() for v in part.values())


def test_the_embedded_data_is_at_hand_and_is_standardised_by_its_training_split() -> None:
    setting = next(s for s in SETTINGS if s.name == "mfeat6-attention")
    data = standardise(load(setting))
    assert data.modalities == setting.modalities
    for m in data.modalities:
        assert data.splits["train"][m].mean(0).abs().max() < 1e-4
        assert data.splits["train"][m].std(0).sub(1).abs().max() < 1e-4
    few = load(replace(setting, train=100))
    assert (len(few.splits["train"]["label"]), few.judging, data.judging) == (100, "fresh", "test")
    assert len(few.splits["fresh"]["label"]) == 1100 + 500
    seen = {tuple(row.tolist()) for row in few.splits["train"]["pix"]}
    whole = load(setting).splits
    twice = sum(tuple(row.tolist()) in seen for row in whole["train"]["pix"]) - 100
    assert sum(tuple(row.tolist()) in seen for row in few.splits["fresh"]["pix"]) <= twice + 1


def test_runs_are_made_once_each_and_go_on_where_they_were_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world(n=60)
    setting = replace(TINY, epochs=1)
    asked = list(asked_of(setting.modalities, seeds=(7,)))
    assert len({a.key for a in asked}) == len(asked) == 2 * 3 + 5
    made: list[str] = []
    real = Oracle.run

    def counting(self: Oracle, asked: Asked) -> dict[str, object]:
        if len(made) == 8:
            raise KeyboardInterrupt
        made.append(asked.key)
        return real(self, asked)

    monkeypatch.setattr(Oracle, "run", counting)
    with pytest.raises(KeyboardInterrupt):
        oracle.work(setting, data, tmp_path, made.__contains__, seeds=(7,))
    monkeypatch.setattr(Oracle, "run", lambda self, asked: (made.append(asked.key), real(self, asked))[1])
    oracle.work(setting, data, tmp_path, made.__contains__, seeds=(7,))
    oracle.work(setting, data, tmp_path, made.__contains__, seeds=(7,))
    assert made == [a.key for a in asked]
    lines = [json.loads(line) for line in (tmp_path / "oracle.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines] == made
    assert oracle.read_runs(tmp_path, "tiny").keys() == set(made)


def test_models_are_trained_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SEEDS", range(2))
    setting = replace(TINY, epochs=1)
    for _ in range(2):
        command.train(setting, world(n=60), tmp_path)
    lines = read_lines(tmp_path / "models.jsonl")
    assert [line["seed"] for line in lines] == [0, 1]
    assert set(lines[0]["use"]) == {"a", "b"}


def test_the_best_is_chosen_on_validation_and_the_due_is_of_a_run_that_is_as_good() -> None:
    data = world()
    zero = [0.0] * 240

    def run(key: str, val: float, test: float, **uses: float) -> tuple[str, oracle.Run]:
        record: dict[str, object] = {"val": val, "test": [test] * 240}
        if uses:
            record["val_use"] = uses
            record["test_use"] = {m: [10 * u] * 240 for m, u in uses.items()}
        return key, record

    runs = dict(
        [
            run("a/own/1", 0.5, 0.6),
            run("a/alone@0.001/1", 0.6, 0.1),
            run("b/own/1", 0.9, 0.8),
            run("a+b/own/1", 0.400, 0.3, a=0.4, b=0.0),
            run("a+b/balanced/1", 0.410, 0.35, a=0.2, b=0.2),  # within 2 % of 1.1 of the best
            run("a+b/dropout/1", 0.440, 0.2, a=0.1, b=0.9),  # not
        ]
    )
    found = evidence(TINY, data, runs, {m: torch.tensor(zero) for m in ("a", "b")})
    base = prior(data, "test")
    assert torch.allclose(found["a"].alone, base - 0.6)
    assert torch.allclose(found["b"].alone, base - 0.8)
    assert found["a"].added.tolist() == pytest.approx([0.8 - 0.3] * 240)
    assert found["b"].added.tolist() == pytest.approx([0.6 - 0.3] * 240)
    assert found["a"].due.tolist() == pytest.approx([4.0] * 240)
    assert found["b"].due.tolist() == pytest.approx([2.0] * 240)


def test_redundancy_is_the_r2_of_a_linear_regression() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=g)
    b = a[:, :2] @ torch.randn(2, 4, generator=g) + torch.randn(4000, 4, generator=g)
    features = Features.__new__(Features)
    object.__setattr__(features, "pooled", {"a": a, "b": b})
    explained = LinearRegression().fit(a, b).predict(a)
    wanted = 1 - ((b.numpy() - explained) ** 2).sum() / ((b - b.mean(0)) ** 2).sum()
    assert redundancy(features, "b") == pytest.approx(float(wanted), abs=5e-3)
    assert redundancy(features, "a") != pytest.approx(redundancy(features, "b"), abs=0.02)


def row(true: str, verdict: str, score: float | None = 0.5, **more: object) -> dict[str, object]:
    peers = dict.fromkeys(table.NAMES, 0.0)
    about = {"setting": "s", "seed": 0, "seconds": 1.0, "modality": "m", "known": truth(stated(0.5, 0.2, 0.3, 0.3))}
    return {**about, "truth": true, "verdict": verdict, "score": score, "peers": peers, **more}


def test_tables_count_decided_undecided_and_partly_judged_apart() -> None:
    rows = [
        row("used", "used", 0.1),
        row("used", "underused", 0.7, seed=1),
        row("used", "inconclusive", 0.6, seed=2, at_most="underused", missing="no encoder was trained"),
        row("ignored", "collapsed", 0.9),
        row("ignored", "inconclusive", None, at_least="underused"),
        row("nothing", "uninformative", 0.0),
        row("between", "used"),
        row("unsure", "collapsed"),
    ]
    said = table.summary(rows)
    assert "judged 6 modalities; 2 more" in said
    assert "decided 4 (66.7%), right 3 of them (75.0%)" in said
    assert "undecided 1 (16.7%), only partly judged 1 (16.7%)" in said
    assert "excludes the truth in 2" in said
    assert table.wrong(rows).count("called") == 1
    assert table.stability(rows) == ("two seeds of the same truth get the same verdict in 0 of 4 pairs (0.0%)")
    lines = table.confusion(rows).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(STATES)
    assert lines[1].split()[1:] == ["1", "1", "0", "0", "1"]
    assert table.by_setting(rows).splitlines()[1].split() == ["s", "6", "4", "3"]


def test_peers_get_the_threshold_that_is_best_for_them() -> None:
    rows = [row("ignored", "collapsed", 0.9, peers=dict.fromkeys(table.NAMES, i / 10)) for i in range(3)]
    rows += [row("used", "used", 0.1, peers=dict.fromkeys(table.NAMES, 0.2 + i / 10)) for i in range(5)]
    lines = table.peers(rows).splitlines()
    assert len(lines) == 3 + len(table.NAMES)
    assert lines[1].split()[-2:] == ["1.000", "0.0%"]
    assert lines[2].split()[-1] == "0.0%"
    assert all(line.split()[-1] == "12.5%" for line in lines[3:])
    rows = [{**r, "peers": {**r["peers"], "prefix_gap": 0.0}} for r in rows]
    assert [line.split()[-2:] for line in table.peers(rows).splitlines() if "prefix gap" in line] == [
        ["not", "measured"]
    ]
    assert table.peers(rows[:2]) == "ignored or not: all are the same"


@pytest.mark.slow
def test_a_model_is_trained_judged_and_diagnosed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.natural import verdicts

    monkeypatch.setattr(command, "SEEDS", range(1))
    data = standardise(world())
    command.train(TINY, data, tmp_path)
    for _ in range(2):
        verdicts.work(TINY, data, 0, tmp_path, ["quick"], "verdicts.jsonl")
    (found,) = read_lines(tmp_path / "verdicts.jsonl")
    assert found["profile"] == "quick"
    for each in found["modalities"].values():
        assert each["verdict"] in table.VERDICTS
        assert set(each["peers"]) == set(table.NAMES)
        assert "utilisation.credit" in each["results"]


def test_only_keeps_the_label() -> None:
    assert only(world(), ("b",)).modalities == ("b",)


def test_no_ratio_is_shown_of_what_is_due_next_to_nothing() -> None:
    truths = {("s", 0, m): truth(stated(0.5, 0.0, due, 3.0)) for m, due in (("a", 0.3), ("b", 0.001))}
    a, b = table.truth_table(truths).splitlines()[-2:]
    assert a.split() == ["s", "a", "0.500", "0.000", "0.300", "0.900", "3.000", "1", "used"]
    assert b.split()[6:] == ["-", "1", "between"]
