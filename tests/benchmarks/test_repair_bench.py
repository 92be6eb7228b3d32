from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from statsmodels.stats.multitest import multipletests
from torch.nn import functional as F

from benchmarks.repair.__main__ import main
from benchmarks.repair.class_means import class_means
from benchmarks.repair.measure import options_of, own_options
from benchmarks.repair.subjects import Subject, arrays_of, trained
from benchmarks.repair.table import FILLS, MEASURES, fills_table, holm, mostly_untrained, paired, table
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
    clean, noisy = (arrays_of(Subject("mfeat", noise, 0)) for noise in (0.0, 0.5))
    assert len(clean["train/label"]) == 300
    for split in ("train", "val", "test"):
        for view in ("pix", "fou", "zer"):
            assert torch.equal(clean[f"{split}/{view}"], noisy[f"{split}/{view}"])
    changed = (clean["test/kar"] != noisy["test/kar"]).any(1).float().mean()
    assert 0.4 < changed < 0.6
    assert torch.equal(arrays_of(Subject("mfeat", 0.5, 0))["test/kar"], noisy["test/kar"])
    one, two = (trained(Subject("mfeat", 0.0, s), clean).state_dict()["head.weight"] for s in (0, 1))
    assert not torch.equal(one, two)


@pytest.mark.slow
def test_the_benchmark_runs_and_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = json.dumps({"epochs": 1})
    given = ["--sets", "mfeat", "--noises", "0.25", "--seeds", "1", "--methods", "dropout"]
    main([*given, "--training", short, "--split", "val", "--records", str(tmp_path / "r")])
    kept = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert [r["method"] for r in kept] == ["none", "dropout"]
    assert all(r[m] is not None for r in kept for m in MEASURES if m != "classifier_loss")
    assert all((r[f] is None) == (f == "patterns_substitution") for r in kept for f in FILLS)
    assert "| dropout |" in capsys.readouterr().out


def test_options_are_read_off_the_command_line_by_method() -> None:
    assert options_of(["ebr.fresh_fusion=true", "ebr.latent=9", 'kd.sequence="random"']) == {
        "ebr": {"fresh_fusion": True, "latent": 9},
        "kd": {"sequence": "random"},
    }
    assert options_of([]) == {}
