"""A repaired model is not the user's alone: what was put into it is told in repair.json, and is put back from there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import collapsekit
from collapsekit import RepairReport, load_repaired, repair
from collapsekit.adapters import inserts
from collapsekit.adapters.build import insert_into
from collapsekit.adapters.inserts import BasisHead, posts_of, substitute_missing
from collapsekit.cli import app
from collapsekit.diagnosis import settle_config
from collapsekit.errors import CollapsekitError, ConfigError, RefusedError
from collapsekit.report.repair import structure_of
from collapsekit.session.opening import build_adapter
from tests.conftest import joint_trained_briefly
from tests.problems import Late
from tests.repairs.making import differing
from tests.repairs.test_repairing import WIDTHS, deaf
from tests.resealing import resealed

Repaired = tuple[RepairReport, Path, Path]  # the report, its folder, and the config


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repaired]:
    """What ebr made of the model that never heard audio; do not write into it."""
    folder = tmp_path_factory.mktemp("ebr")
    with joint_trained_briefly():
        project = deaf(folder / "project")
        report = repair(
            project / "ckpt.pt",
            config=project / "collapsekit.yaml",
            output=folder / "out",
            method="ebr",
            options={"ebr": {"latent": 9, "adversary": 0.1}},
            training={"epochs": 3, "rate": 0.01},
            control=False,
            keep=True,
            profile="quick",
            cache=folder / "cache",
        )
        yield report, folder / "out", project / "collapsekit.yaml"


def examples(n: int = 11) -> dict[str, Tensor]:
    return {m: torch.randn(n, d, generator=torch.Generator().manual_seed(d)) for m, d in WIDTHS.items()}


def test_what_was_put_in_and_noted_is_told(mended: Repaired) -> None:
    report, folder, _ = mended
    raw = json.loads((folder / "repair.json").read_text())
    assert raw["structure"] == [
        {
            "modality": m,
            "path": f"encoders.{m}",
            "part": None,
            "channels": None,
            "features": 6,
            "kind": "basis",
            "latent": 9,
            "hidden": 18,
        }
        for m in WIDTHS
    ]
    assert [(r.name, r.modality) for r in report.findings] == [
        ("substitution.similarity_before", "image"),
        ("substitution.similarity_before", "audio"),
        ("substitution.similarity", "image"),
        ("substitution.similarity", "audio"),
        ("ebr.discriminator_loss", None),
        ("ebr.discriminator_entropy", None),
    ]
    assert RepairReport.load(folder / "repair.json") == report
    assert RepairReport.from_json(report.to_json()).to_json() == (folder / "repair.json").read_text()
    shown = CliRunner().invoke(app, ["report", str(folder)], env={"COLUMNS": "80"}).stdout
    assert "Put into the model" in shown
    assert "Noted by the method" in shown


def test_it_is_put_back_into_a_fresh_model(mended: Repaired) -> None:
    """Bit for bit the model that was trained, in its weights and in what it says, substitution included."""
    report, folder, config = mended
    ours = load_repaired(folder, Late(WIDTHS))
    assert not any(part.training for part in ours.modules())
    assert differing(load_file(folder / "model.safetensors"), ours.state_dict()) == set()
    theirs = build_adapter(settle_config(config, None), folder).model
    named = build_adapter(settle_config(config, None), folder / "model.safetensors").model
    by_hand = inserts.insert(Late(WIDTHS), [r.model_dump() for r in report.structure]).eval()
    by_hand.load_state_dict(load_file(folder / "model.safetensors"))
    x = examples()
    plain = ours(**x)
    gone = {"audio": torch.arange(11) % 2 == 0, "image": torch.arange(11) % 3 == 1}
    for model in (theirs, named, by_hand):
        assert torch.equal(model(**x), plain)
        outputs = []
        for one in (ours, model):
            with substitute_missing(one, gone):
                outputs.append(one(**x))
        assert torch.equal(*outputs)
        assert not torch.equal(outputs[0], plain)
    held = ours.encoders["audio"].insert
    fresh = insert_into(Late(WIDTHS), structure_of(folder)).encoders["audio"].insert
    assert not torch.equal(held.h[0].weight, fresh.h[0].weight)  # what was trained is not what it begins with


def test_weights_of_another_precision_take_it(mended: Repaired) -> None:
    """A model in float64 has heads in float64."""
    _, folder, _ = mended
    single, double = load_repaired(folder, Late(WIDTHS)), load_repaired(folder, Late(WIDTHS).double())
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    x = examples()
    torch.testing.assert_close(
        double(**{m: v.double() for m, v in x.items()}), single(**x).double(), rtol=1e-4, atol=1e-5
    )


def test_diagnosing_the_folder_is_diagnosing_the_model(mended: Repaired, tmp_path: Path) -> None:
    report, folder, config = mended
    how: dict[str, Any] = {"config": config, "profile": "quick", "split": "test", "cache": tmp_path / "cache"}
    with joint_trained_briefly():
        one = collapsekit.diagnose(folder, **how)
        live = load_repaired(folder, Late(WIDTHS))
        other = collapsekit.diagnose(model=live, **how)
    assert one.results == other.results
    assert one.modalities == other.modalities == report.after.modalities
    assert one.find("missing.patterns.substitution") is not None
    assert report.before.find("missing.patterns.substitution") is None
    assert len(posts_of(live, "basis")) == 2


def test_what_it_was_repaired_from_has_nothing_in_it(mended: Repaired) -> None:
    _, folder, config = mended
    assert structure_of(config.parent / "ckpt.pt") == ()
    assert structure_of(config.parent) == ()
    assert len(structure_of(folder)) == len(structure_of(folder / "model.safetensors")) == 2
    assert structure_of(folder / "other.safetensors") == ()


@pytest.mark.slow
def test_a_repaired_model_is_repaired_again_through_the_api(mended: Repaired, tmp_path: Path) -> None:
    report, folder, config = mended
    how: dict[str, Any] = {"config": config, "modalities": ["audio"], "control": False, "keep": True}
    how |= {"profile": "quick", "cache": tmp_path / "cache", "training": {"epochs": 2}}
    with joint_trained_briefly():
        again = repair(folder, output=tmp_path / "a", method="ebr", options={"ebr": {"adversary": 0.1}}, **how)
        chain = repair(folder, output=tmp_path / "b", method="kd,rtf", **how)
    assert again.structure == report.structure
    assert chain.structure[:2] == report.structure
    assert {r.kind for r in chain.structure[2:]} == {"exchange"}
    for out in (tmp_path / "a", tmp_path / "b"):
        model = load_repaired(out, Late(WIDTHS))
        assert differing(load_file(out / "model.safetensors"), model.state_dict()) == set()
        assert bool(torch.isfinite(model(**examples())).all())


# ---- a repair.json from a stranger


def write(
    folder: Path, mended: Repaired, structure: list[dict[str, Any]], weights: dict[str, Tensor] | None = None
) -> Path:
    """A folder whose repair.json tells of another structure."""
    _, source, _ = mended
    raw = json.loads((source / "repair.json").read_text())
    folder.mkdir(exist_ok=True)
    (folder / "repair.json").write_text(resealed(RepairReport, raw | {"structure": structure}))
    save_file(weights or load_file(source / "model.safetensors"), folder / "model.safetensors")
    return folder


def head(modality: str = "image", **changes: Any) -> dict[str, Any]:
    base = {"kind": "basis", "modality": modality, "path": f"encoders.{modality}", "part": None, "channels": None}
    return base | {"features": 6, "latent": 9, "hidden": 18} | changes


def exchange(**changes: Any) -> dict[str, Any]:
    base = {"kind": "exchange", "modality": "image", "path": "encoders.image", "part": None, "channels": None}
    return base | {"features": 6, "giver": "audio", "given": 6, "to": [0], "source": [1], "blend": 0.1} | changes


BIG = 2**20
REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "enormous": ([head(features=BIG, latent=BIG, hidden=BIG), head("audio")], "more than model.safetensors can hold"),
    "large": ([head(hidden=BIG), head("audio")], "describes inserts of 31,457,820 weights"),
    "projection": ([exchange(features=BIG, given=BIG - 1)], "more than model.safetensors can hold"),
    "beyond": ([head(hidden=BIG + 1)], "less than or equal to 1048576"),
    "negative": ([head(hidden=-1)], "'structure.0.basis.hidden': Input should be greater than or equal to 1"),
    "none": ([head(latent=0)], "'structure.0.basis.latent'"),
    "fraction": ([head(features=6.5)], "'structure.0.basis.features'"),
    "number": ([head(features=10**30)], "'structure.0.basis.features'|does not fit|is not JSON|whole number"),
    "modality twice": ([head(), head(path="encoders.audio")], "names a modality or an encoder twice"),
    "path twice": ([head(), head("audio", path="encoders.image")], "names a modality or an encoder twice"),
    "kind": ([head(kind="magic")], "'magic' found using 'kind'"),
    "no kind": ([{k: v for k, v in head().items() if k != "kind"}], "Unable to extract tag"),
    "more": ([head(code="import os")], "'structure.0.basis.code': Extra inputs are not permitted"),
    "less": ([{k: v for k, v in head().items() if k != "path"}], "'structure.0.basis.path': Field required"),
    "channels": ([head(channels="middle")], "'structure.0.basis.channels'"),
    "blend": ([exchange(blend=1.0)], "'structure.0.exchange.blend'"),
    "channel": ([exchange(to=[-1])], "'structure.0.exchange.to.0'"),
    "many": ([exchange(to=[0] * (2**16 + 1))], "'structure.0.exchange.to'"),
    "giver": ([head(), head("audio"), exchange(giver="text")], "is about 'text', and the modalities are"),
    "no list": ({"a": 1}, "'structure'"),  # type: ignore[dict-item]
}
UNFIT: dict[str, tuple[list[dict[str, Any]], str]] = {
    "elsewhere": (
        [head(path="encoders.imge"), head("audio")],
        r"'encoders\.imge' is not a submodule .*'encoders\.image'",
    ),
    "model": ([head(path=""), head("audio")], "'' is not a submodule of the model"),
    "long": ([head(path="a" * 200_000), head("audio")], r"^.{,400}is not a submodule of the model"),
    "hidden": ([head(path="__class__"), head("audio")], "'__class__' is not a submodule"),
    "inside": ([head(), head("audio", path="encoders.image.encoder")], "is not a submodule"),
    "dots": ([head(path=".."), head("audio")], r"'\.\.' is not a submodule"),
    "narrow": ([head(latent=5, hidden=10), head("audio")], "cannot hold 6 features"),
    "few": ([head(hidden=17), head("audio")], "cannot hold 6 features"),
    "fusion": ([head(path="fusion"), head("audio")], "the checkpoint does not fit the model"),
    "one": ([head()], "the checkpoint does not fit the model"),
    "nothing": ([], "the checkpoint does not fit the model"),
    "other widths": ([head(hidden=20), head("audio", hidden=20)], "the checkpoint does not fit the model"),
    "same channel": ([head(), head("audio"), exchange(to=[0, 0], source=[1, 2])], "cannot get channels"),
    "lengths": ([head(), head("audio"), exchange(to=[0, 1], source=[1])], "cannot get channels"),
    "no channel": ([head(), head("audio"), exchange(to=[6], source=[0])], "cannot get channels"),
}


def refusals(folder: Path, config: Path) -> Iterator[CollapsekitError]:
    """What each way to use the folder ends in."""
    for use in (
        lambda: load_repaired(folder, Late(WIDTHS)),
        lambda: build_adapter(settle_config(config, None), folder),
    ):
        with pytest.raises(CollapsekitError) as e:
            use()
        yield e.value


@pytest.mark.parametrize("name", [*REFUSED, *UNFIT])
def test_a_structure_that_cannot_be_is_one_sentence(
    mended: Repaired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whichever way it is read, and before anything is made of what is refused."""
    structure, words = {**REFUSED, **UNFIT}[name]
    write(tmp_path / "x", mended, structure)
    if name in REFUSED:
        for kind in (BasisHead, inserts.ChannelExchange):
            monkeypatch.setattr(kind, "__init__", lambda *_: pytest.fail("memory was taken for it"))
    began = time.process_time()
    for error in refusals(tmp_path / "x", mended[2]):
        assert isinstance(error, RefusedError if name in REFUSED else ConfigError)
        assert "\n" not in str(error)
        assert str(error).endswith((".", ")"))
        assert re.search(words, str(error)), str(error)
    assert time.process_time() - began < 5


BRIEFLY: dict[str, Any] = {
    "probes": ["missing"],
    "profile": "quick",
    "split": "test",
    "limit": 40,
    "options": {"missing": {"fills": "zeros,substitution", "rates": "0.5"}},
}


def _value(report: collapsekit.Report, fill: str) -> float | None:
    found = report.find(f"missing.patterns.{fill}")
    return None if found is None else found.value


def fitting(structure: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Weights of a model with that in it."""
    torch.manual_seed(0)
    state = inserts.insert(Late(WIDTHS), structure).state_dict()
    return {k: v.clone() for k, v in state.items()}


ODD: dict[str, list[dict[str, Any]]] = {
    "behind the fusion": [head(), head("audio", path="fusion", features=12, latent=12, hidden=24)],
    "one within another": [
        head(path="fusion", features=12, latent=12, hidden=24),
        head("audio", path="fusion.0", features=12, latent=12, hidden=24),
    ],
    "of one only": [head()],
    "of each other": [head(path="encoders.audio"), head("audio", path="encoders.image")],
    "of unknown ones": [head("x", path="encoders.image"), head("y", path="encoders.audio")],
    "of hostile ones": [head("\x1b]0;x\x07", path="encoders.image"), head("a" * 5000, path="encoders.audio")],
    "of other widths": [head(features=4), head("audio")],
    "of another part": [head(part="x"), head("audio")],
    "behind all encoders": [head(path="encoders"), head("audio", path="head", features=3)],
}


@pytest.mark.parametrize("name", ODD)
def test_a_structure_that_fits_but_makes_no_sense_is_no_traceback(mended: Repaired, tmp_path: Path, name: str) -> None:
    """It is diagnosed, without substitution, or refused in a sentence; and shown."""
    folder = write(tmp_path / "x", mended, ODD[name], fitting(ODD[name]))
    how = {"config": mended[2], **BRIEFLY}
    try:
        found = collapsekit.diagnose(folder, **how)
    except CollapsekitError as e:
        assert "\n" not in str(e)  # noqa: PT017 - either will do
        assert name in ("of other widths", "behind all encoders", "of unknown ones", "of hostile ones")
    else:
        assert _value(found, "zeros") is not None
        assert (_value(found, "substitution") is None) == (name != "of another part")  # of a tensor there are no parts
    done = CliRunner().invoke(app, ["report", str(folder)], env={"COLUMNS": "80"})
    assert done.exit_code == (3 if name in ("of unknown ones", "of hostile ones") else 0)
    assert not set(done.output) & set("\x1b\x07")


def test_an_order_that_weights_may_hold_is_no_traceback(mended: Repaired, tmp_path: Path) -> None:
    _, source, config = mended
    weights = load_file(source / "model.safetensors")
    for order in (7, -(2**62)):
        weights["encoders.audio.insert.order"] = torch.tensor([order])
        folder = write(tmp_path / "x", mended, [head(), head("audio")], weights)
        found = collapsekit.diagnose(folder, config=config, **BRIEFLY)
        assert _value(found, "substitution") is not None
        model = load_repaired(folder, Late(WIDTHS))
        with substitute_missing(model, {"audio": torch.ones(11, dtype=torch.bool)}):
            assert model(**examples()).shape == (11, 3)


def test_modalities_may_be_called_otherwise_afterwards(mended: Repaired, tmp_path: Path) -> None:
    """Heads still are where they were; who stands in for whom is told by name, and so is not known."""
    _, folder, config = mended
    text = config.read_text().replace(
        "modalities: {image: encoders.image, audio: encoders.audio}",
        "modalities: {sight: {encoder: encoders.image, input: image}, sound: {encoder: encoders.audio, input: audio}}",
    )
    assert "sight" in text
    (config.parent / "other.yaml").write_text(text)
    one = collapsekit.diagnose(folder, config=config, **BRIEFLY)
    other = collapsekit.diagnose(folder, config=config.parent / "other.yaml", **BRIEFLY)
    assert _value(other, "zeros") == _value(one, "zeros")
    assert _value(one, "substitution") is not None
    assert _value(other, "substitution") is None
    skipped = other.find("missing.patterns.substitution")
    assert skipped is not None
    assert "no heads" in str(skipped.skipped)


def test_a_live_repaired_model_is_built_afresh_with_its_heads(mended: Repaired) -> None:
    """As unimodal baselines are: of the model alone, without the folder it came from."""
    _, folder, source = mended
    config = settle_config(source, None)
    live = load_repaired(folder, Late(WIDTHS))
    adapter = build_adapter(config, None, model=live)
    twin = adapter.fresh(1)
    assert twin is not None
    assert twin.model.state_dict().keys() == live.state_dict().keys()
    assert posts_of(twin.model, "basis").keys() == posts_of(live, "basis").keys()
