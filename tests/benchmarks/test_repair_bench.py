from __future__ import annotations

import json
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest
from statsmodels.stats.multitest import multipletests
from torch import Tensor
from torch.nn import functional as F

from benchmarks.records import Records
from benchmarks.repair.__main__ import KEY, main
from benchmarks.repair.class_means import class_means
from benchmarks.repair.data_sets import DATA_SETS, FOLDER
from benchmarks.repair.measure import options_of, own_options, parts_of
from benchmarks.repair.subjects import Subject, arrays_of, build, trained
from benchmarks.repair.table import FILLS, MEASURES, fills_table, footnote, holm, mostly_untrained, paired, table
from collapsekit.demo.make import demo_data
from collapsekit.repairs.methods.ebr import EbrOptions
from collapsekit.repairs.methods.substitute import SubstituteOptions
from collapsekit.repairs.request import check_method_options
from tests.problems import make_arrays
from tests.repairs.making import SIZES, WIDTHS, make_job, run

pytestmark = pytest.mark.usefixtures("brief_joint")


def test_holm_is_that_of_statsmodels() -> None:
    g = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 8):
        for p in (
            torch.rand(size, generator=g),
            torch.rand(size, generator=g) ** 4,
            torch.ones(size),
            torch.zeros(size),
        ):
            assert holm(p.tolist()) == pytest.approx(
                multipletests(p.double().numpy(), method="holm")[1].tolist(), abs=1e-7
            )


def records() -> list[dict[str, object]]:
    made = []
    for seed in range(8):
        for method, gain in (("none", 0.0), ("finetune", 0.0), ("a", 0.1), ("b", 0.0)):
            value = 0.5 + 0.01 * seed + gain
            kept = {"a": seed, "b": seed // 5, "finetune": 2}.get(method)
            subject = {"data": "d", "noise": 0.0, "seed": seed, "method": method, "epoch_kept": kept}
            made.append(subject | dict.fromkeys(MEASURES, value))
    return made  # type: ignore[return-value]


def test_a_method_is_marked_where_it_differs_from_the_control_of_the_same_subject() -> None:
    ours, theirs = paired(records()[::-1], "accuracy", "a")
    assert (ours - theirs) == pytest.approx(0.1)
    rows = {line.split(" | ")[0]: line for line in table(records()).splitlines()[2:]}
    assert rows["| a"].endswith("| 3.5 (0-7) |")
    assert rows["| none"].endswith("|  |")
    assert rows["| a"].count("*") == len(MEASURES)
    assert "*" not in rows["| b"] + rows["| finetune"]
    assert rows["| a"].startswith("| a | 0.635 (0.0245)*")


def test_a_row_of_models_before_any_training_is_told() -> None:
    assert mostly_untrained(records()) == ["b"]


def test_presets_and_single_options_are_read_off_a_method_s_name() -> None:
    every = check_method_options({})
    assert own_options(every["ebr"], "paper") == EbrOptions(preset="paper")
    assert own_options(every["substitute"], "substitution=0") == SubstituteOptions(substitution=0)
    assert own_options(every["ebr"], "") is every["ebr"]
    several = own_options(EbrOptions(align=0.2), 'alignment="coral";substitution=0')
    assert several == EbrOptions(align=0.2, alignment="coral", substitution=0)
    assert parts_of('kd,ebr:alignment="coral";substitution=0,dropout') == [
        "kd",
        'ebr:alignment="coral";substitution=0',
        "dropout",
    ]
    assert parts_of('rtf:receivers=["a","b"],finetune') == ['rtf:receivers=["a","b"]', "finetune"]


def test_a_fill_is_marked_where_substitution_differs_from_it() -> None:
    rows = [dict(r, **dict.fromkeys(FILLS, 0.5 + 0.01 * r["seed"])) for r in records()]  # type: ignore[operator]
    assert "*" not in fills_table(rows)
    rows = [r | {"patterns_zeros": r["patterns_zeros"] - 0.1} if r["method"] == "a" else r for r in rows]
    marked = [line for line in fills_table(rows).splitlines() if "*" in line]
    assert [line.split(" | ")[0] for line in marked] == ["| a"]
    assert marked[0].startswith("| a | 0.435 (0.0245)*")
    assert marked[0].count("*") == 1


def test_class_means_of_features_that_only_tell_the_class_are_those_features(tmp_path: Path) -> None:
    made = make_arrays(WIDTHS, sizes=SIZES)
    told = {
        k: F.one_hot(made[f"{k.split('/')[0]}/label"], v.shape[1]).float() for k, v in made.items() if "label" not in k
    }
    job = make_job(arrays=made | told, epochs=20, rate=0.1)
    run(job, tmp_path)
    first = job.adapter.model.fusion[0]
    first.weight.data[:, : first.in_features // 2] = (
        0  # deaf to the image, which tells what to put in the audio's place
    )
    assert class_means(job.adapter, "val") == 1.0


def test_the_weak_modality_is_another_example_s_as_often_as_said() -> None:
    clean, noisy = demo_data(), arrays_of(Subject("mfeat", 0.5, 0))
    assert len(noisy["train/label"]) == 300
    for split in ("val", "test"):
        for view in ("pix", "fou", "zer", "label"):
            assert torch.equal(clean[f"{split}/{view}"], noisy[f"{split}/{view}"])
    changed = (clean["test/kar"] != noisy["test/kar"]).any(1)
    assert 0.4 < float(changed.float().mean()) < 0.6
    assert {tuple(x.tolist()) for x in noisy["test/kar"]} <= {tuple(x.tolist()) for x in clean["test/kar"]}
    assert torch.equal(arrays_of(Subject("mfeat", 0.5, 0))["test/kar"], noisy["test/kar"])


def test_noise_in_training_is_uniform_and_in_training_alone() -> None:
    clean, noisy = demo_data(), arrays_of(Subject("mfeat", 0.3, 0, "uniform"))
    for key, values in clean.items():
        if not key.startswith("train/"):
            assert torch.equal(values, noisy[key])
    rows = rows_of(noisy, clean)
    for view in ("pix", "fou", "zer"):
        assert torch.equal(noisy[f"train/{view}"], clean[f"train/{view}"][rows])
    apart, own = noisy["train/kar"] - clean["train/kar"][rows], clean["train/kar"][rows].numpy()
    a = 0.3 * float((own.max(0) - own.min(0)).max())
    assert float(apart.abs().max()) == pytest.approx(a, rel=0.01)
    assert float(apart.mean()) == pytest.approx(0, abs=0.01 * a)
    assert float(apart.std()) == pytest.approx(a / 3**0.5, rel=0.02)  # of a uniform distribution
    assert kstest(apart.numpy().ravel() / a, "uniform", (-1, 2)).pvalue > 0.01


def rows_of(arrays: dict[str, Tensor], clean: dict[str, Tensor]) -> Tensor:
    """Which training examples a subject has, by a view that stays as it is."""
    return torch.cdist(arrays["train/pix"], clean["train/pix"]).argmin(1)


def test_every_subject_has_examples_noise_and_weights_of_its_own() -> None:
    """From seed to seed, from kind to kind of noise, and from one level of it to the next."""
    subjects = [
        Subject("mfeat", n, s, k) for n, s, k in ((0.25, 0, "uniform"), (0.25, 1, "uniform"), (0.5, 0, "uniform"))
    ]
    subjects.append(Subject("mfeat", 0.25, 0, "exchange"))
    clean, drawn = demo_data(), [arrays_of(s) for s in subjects]
    rows = [set(rows_of(a, clean).tolist()) for a in drawn]
    for i, j in combinations(range(4), 2):
        assert 50 < len(rows[i] & rows[j]) < 100  # 300 of 1,200 by chance: 75
    assert len({s.stream for s in subjects}) == 4
    one, two = (trained(s, drawn[0]).state_dict()["head.weight"] for s in subjects[:2])
    assert not torch.equal(one, two)


@pytest.mark.parametrize("data", DATA_SETS)
def test_a_data_set_is_what_is_said_of_it(data: str) -> None:
    of = DATA_SETS[data]
    if data != "mfeat" and not (FOLDER / f"{data}.safetensors").is_file():
        pytest.skip(f"no {data}.safetensors in {FOLDER} (set COLLAPSEKIT_DATA)")
    arrays = of.load(data)
    assert len(arrays["train/label"]) == of.of > of.drawn
    assert {k.split("/")[1] for k in arrays} == {*of.modalities, "label"}
    model = build(data)
    logits = model(**{m: arrays[f"val/{m}"][:5] for m in of.modalities})
    assert logits.shape == (5, int(arrays["train/label"].max()) + 1)
    assert of.weak in of.modalities
    for m in of.modalities:  # each is read, by itself
        other = model(**{k: arrays[f"val/{k}"][5:10] if k == m else arrays[f"val/{k}"][:5] for k in of.modalities})
        assert not torch.equal(other, logits)


def test_records_are_gone_on_from(tmp_path: Path) -> None:
    file, settings = tmp_path / "r.jsonl", {"probes": ["missing"]}
    subject = Subject("mfeat", 0.25, 3, "uniform")
    record = {
        "data": "mfeat",
        "noise": 0.25,
        "seed": 3,
        "kind": "uniform",
        "split": "val",
        "method": "ebr",
        "rank": 1.0,
    }
    known = Records(file, settings, KEY)
    known.add(record)
    known.add(record | {"rank": 2.0})  # it is there already
    with file.open("a") as f:
        f.write('{"data": "mfeat", "noi')  # where a run was ended
    again = Records(file, settings, KEY)
    one = {**asdict(subject), "split": "val", "method": "ebr"}
    assert again.find(**one) == record | {"settings": settings}
    for other in (Subject("mfeat", 0.25, 3), Subject("mfeat", 0.25, 2, "uniform"), Subject("mfeat", 0.5, 3, "uniform")):
        assert again.find(**one | asdict(other)) is None
    assert again.find(**one | {"split": "test"}) is again.find(**one | {"method": "kd"}) is None
    assert Records(file, {"probes": ["vif"]}, KEY).find(**one) is None
    with pytest.raises(ValueError, match="not by method"):
        again.find(method="ebr")
    again.add(record | {"method": "kd"})
    assert [json.loads(line)["method"] for line in file.read_text().splitlines()] == ["ebr", "kd"]


def test_what_subjects_share_is_said_beneath() -> None:
    made = [r | {"drawn": 300, "of": 1200} for r in records()]
    assert "d: each subject draws 300 of 1200 training examples (two share 25% of them on average)" in footnote(made)
    assert "the same for all" in footnote([r | {"of": 300} for r in made])


def test_another_control_may_be_named() -> None:
    rows = {line.split(" | ")[0]: line for line in table(records(), "a").splitlines()[2:]}
    assert "*" not in rows["| a"]
    assert all(rows[f"| {m}"].count("*") == len(MEASURES) for m in ("none", "b", "finetune"))


def test_subjects_of_another_kind_of_noise_are_no_pair() -> None:
    made = [r | {"kind": "uniform" if r["method"] == "a" else "exchange"} for r in records()]
    assert len(paired(made, "accuracy", "a")[0]) == 0


@pytest.mark.slow
def test_the_benchmark_runs_prints_a_table_and_does_not_measure_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = json.dumps({"epochs": 1})
    given = ["--sets", "mfeat", "--noises", "0.25", "--seeds", "1", "--methods", "dropout"]
    main([*given, "--training", short, "--split", "val", "--records", str(tmp_path / "r")])
    kept = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert [r["method"] for r in kept] == ["none", "dropout"]
    assert all(r[m] is not None for r in kept for m in MEASURES if m != "classifier_loss")
    assert all((r[f] is None) == (f == "patterns_substitution") for r in kept for f in FILLS)
    shown = capsys.readouterr().out
    assert "| dropout |" in shown
    monkeypatch.setattr("benchmarks.repair.__main__.measure", None)  # which is not called again
    main([*given, "--training", short, "--split", "val", "--records", str(tmp_path / "r")])
    assert capsys.readouterr().out == shown


def test_options_are_read_off_the_command_line_by_method() -> None:
    assert options_of(["ebr.fresh_fusion=true", "ebr.latent=9", 'kd.sequence="random"']) == {
        "ebr": {"fresh_fusion": True, "latent": 9},
        "kd": {"sequence": "random"},
    }
    assert options_of([]) == {}
