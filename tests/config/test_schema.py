"""collapsekit.yaml and [tool.collapsekit] as a checked Config; objects named from a config's folder."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from collapsekit.config.imports import import_object, importable_from
from collapsekit.config.load import check_config, load_config
from collapsekit.config.schema import AnswersConfig, Config, EpisodesConfig
from collapsekit.errors import ConfigError
from collapsekit.io.yaml import parse_yaml

FULL = """\
model: {factory: m:build, kwargs: {width: 64, rate: 1e-3}, checkpoint: ckpt.pt}
modalities:
  image: encoders.image
  audio: {encoder: encoders.audio, input: [wav, rate], pool: mean, scale: 2, mask: keep}
  text:
fusion: fusion
output: [a, 1]
task: contrastive
temperature: 5e-2
data: {path: d.npz, also: [x]}
"""


def write(folder: Path, text: str, name: str = "collapsekit.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(parse_yaml(text, "c.yaml"), base=Path(), origin="c.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_full_config(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL))
    assert config.modalities["image"].encoder == "encoders.image"
    assert config.modalities["audio"].input == ("wav", "rate")
    assert config.modalities["text"].encoder is None
    assert config.output == ("a", 1)
    assert config.model.kwargs == {"width": 64, "rate": 1e-3}
    assert config.temperature == 0.05
    assert config.base == tmp_path.resolve()
    assert config.resolve("d.npz") == tmp_path.resolve() / "d.npz"
    dumped = config.model_dump(mode="json", exclude_defaults=True)
    assert str(tmp_path) not in str(dumped)  # the report repeats the config, not this machine's paths
    assert config.file == tmp_path / "collapsekit.yaml"
    assert check_config(dumped, base=config.base, origin=config.origin, file=config.file) == config


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("modalites: {}", "modalites", "did you mean 'modalities'"),
        ("data: {pth: x}", "data.pth", "did you mean 'path'"),
        ("modalities: {image: {encodr: x}}", "modalities.image.encodr", "did you mean 'encoder'"),
        ("model: {factry: x}", "model.factry", "did you mean 'factory'"),
        ("subsets: [{checkpont: x}]", "subsets.0.checkpont", "did you mean 'checkpoint'"),
        ("label: y", "label", "it belongs in 'data'"),
        ("factory: m:f", "factory", "it belongs in 'model' or 'data'"),
        ("data: {encoder: x}", "data.encoder", "known there are path"),
        ("base: /", "base", "known there are adapter"),
        ("origin: x", "origin", "known there are adapter"),
        ("file: x", "file", "known there are adapter"),
    ],
)
def test_unknown_keys_name_the_nearest(text: str, key: str, near: str) -> None:
    said = refusal(text)
    assert f"unknown key '{key}'" in said
    assert near in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {batch_size: 0}", "data.batch_size"),
        ("modalities: {a: {scale: 0}}", "modalities.a.scale"),
        ("modalities: {a: {scale: .inf}}", "finite"),
        ("modalities: {a: {input: []}}", "modalities.a.input"),
        ("modalities: {a: {pool: meen}}", "'mean'"),
        ("modalities: [a, b]", "modalities"),
        ("modalities: {1: x, 2: y}", "modalities"),
        ("call: list of", "call"),
        ("temperature: -1", "greater than 0, found -1"),
        ("model: {kwargs: {x: .nan}}", "numbers must be finite"),
        ("model: {kwargs: {1: 2}}", "keys must be names"),
        ("data: 5", "data"),
        ("- a", "holds list"),
        ("", "holds NoneType"),
        ("just text", "holds str"),
    ],
)
def test_wrong_values_say_where(text: str, says: str) -> None:
    assert says in refusal(text)


THREE = "modalities: {image: x, audio: y, text: z}\nsubsets: "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{modalities: [image, adio], checkpoint: c}]", "no modality 'adio' (did you mean 'audio'?)"),
        ("[{modalities: [image, image], checkpoint: c}]", "image+image names a modality twice"),
        ("[{modalities: [image], checkpoint: c}]", "at least two modalities and fewer than all 3, found image"),
        ("[{modalities: [], checkpoint: c}]", "at least two modalities and fewer than all 3, found none"),
        ("[{modalities: [text, image, audio], checkpoint: c}]", "fewer than all 3, found text+image+audio"),
        (
            "[{modalities: [image, text], checkpoint: c}, {modalities: [text, image], checkpoint: d}]",
            "two subsets are of the same modalities",
        ),
        ("[{modalities: [image, audio]}]", "subsets.0.checkpoint"),
        ("[{checkpoint: c}]", "subsets.0.modalities"),
        ("[{modalities: [image, audio], checkpoint: c, kwargs: {x: .inf}}]", "finite"),
        ("c.pt", "subsets"),
    ],
)
def test_wrong_subsets_say_what_is_wrong(text: str, says: str) -> None:
    said = refusal(THREE + text)
    assert says in said
    assert "Value error" not in said


def test_wrong_modalities_are_said_before_what_refers_to_them() -> None:
    said = refusal("modalities: [a, b, c]\nsubsets: [{modalities: [a, b], checkpoint: c}]")
    assert said.startswith("c.yaml at 'modalities': ")


def test_a_subsets_config_is_the_models_with_what_it_says_over_it(tmp_path: Path) -> None:
    text = "model: {factory: m:build, kwargs: {width: 8, views: all}, checkpoint: all.pt}\nfusion: f\n" + THREE
    text += "[{modalities: [text, image], checkpoint: ti.pt, kwargs: {views: [ti]}},"
    text += " {modalities: [image, audio], checkpoint: ia.pt, factory: n:make, kwargs: {k: 1}}]"
    config = load_config(write(tmp_path, text))
    one, other = (config.with_subset(s) for s in config.need_subsets())
    assert list(one.modalities) == ["image", "text"]  # in the config's order: a model may be called by place
    assert one.modalities["text"].encoder == "z"
    assert one.model.kwargs == {"width": 8, "views": ["ti"]}
    assert (one.model.factory, one.model.checkpoint) == ("m:build", "ti.pt")
    assert (other.model.factory, other.model.kwargs) == ("n:make", {"k": 1})
    assert (one.fusion, one.base, one.subsets) == ("f", tmp_path.resolve(), ())
    dumped = config.model_dump(mode="json", exclude_defaults=True)
    assert check_config(dumped, base=config.base, origin=config.origin, file=config.file) == config


def test_a_missing_subsets_section_says_what_to_write() -> None:
    config = check_config({"modalities": {"image": "x", "audio": "y", "text": "z"}}, base=Path(), origin="c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml has no `subsets`.*\[image, audio\], checkpoint: image_audio\.pt"):
        config.need_subsets()
    two = check_config({"modalities": {"image": "x", "audio": "y"}}, base=Path(), origin="c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml has 2 modalities.*three or more"):
        two.need_subsets()


def test_only_plain_values_reach_a_report() -> None:
    with pytest.raises(ValidationError, match="numbers must be finite, found inf"):  # made without check_config
        Config(model={"kwargs": {"x": math.inf}})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="found object"):
        check_config({"model": {"kwargs": {"x": [object()]}}}, base=Path())
    assert check_config({"model": {"kwargs": {"x": (1, {"y": None})}}}, base=Path()).model.kwargs == {
        "x": [1, {"y": None}]
    }


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2", "a: {b: 1, b: 2}", "x:\n  - {k: 1, k: 1}", "modalities: {a: x, a: y}"],
)
def test_duplicate_keys_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"line \d.*stands twice"):
        parse_yaml(text, "c.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "a: !!binary aGVsbG8=",
        "a: !!set {x}",
        "a: !mine 5",
        "a: [1, !!str 2]",
        "!!map {a: 1}",
    ],
)
def test_tags_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"tag .* is not allowed"):
        parse_yaml(text, "c.yaml")


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\ta: 1", "? [a]\n: 1", "a: *nowhere", "a: \x00"])
def test_broken_yaml_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="is not valid YAML") as caught:
        parse_yaml(text, "c.yaml")
    assert str(caught.value).startswith("c.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("+.5e1", 5.0),
        ("1.0", 1.0),
        ("12", 12),
        ("1e", "1e"),
        ("e5", "e5"),
        ("v1e3", "v1e3"),
        ("2024-01-02", "2024-01-02"),
        ("true", True),
        ("~", None),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = parse_yaml(f"x: {text}", "c")["x"]
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_every_float_python_writes_is_read_back(x: float) -> None:
    assert parse_yaml(f"x: {x!r}", "c")["x"] == x


def test_anchors_and_merge_keys_work() -> None:
    text = "base: &b {pool: mean, scale: 2}\nmodalities:\n  a: {<<: *b, encoder: x}\n  b: *b\n"
    raw = parse_yaml(text, "c")
    assert raw["modalities"]["a"] == {"pool": "mean", "scale": 2, "encoder": "x"}
    assert raw["modalities"]["b"] == {"pool": "mean", "scale": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [("[tool.x]\n", "no .tool.collapsekit. table"), ("a = ", "not valid TOML"), (None, "cannot be read")],
)
def test_broken_pyproject(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("fusion: \xe9".encode("latin-1"))
    for path in (tmp_path, tmp_path / "no.yaml", tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)
    assert load_config(write(tmp_path, "\ufefffusion: f")).fusion == "f"  # a byte order mark


# -- module:callable ------------------------------------------------------------------------------------------------


def folder(base: Path, name: str, **files: str) -> Path:
    made = base / name
    for file, text in files.items():
        path = made / (file.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return made


def test_two_folders_each_with_their_own_modules(tmp_path: Path) -> None:
    """model.py, what it imports at its top and while it is called, and packages with and without __init__.py."""
    made = []
    for i in (1, 2):
        made.append(
            folder(
                tmp_path,
                f"f{i}",
                cfgt_model="import cfgt_layers, cfgt_pack.inner\ndef build():\n    import cfgt_lazy\n"
                "    return cfgt_layers.X, cfgt_pack.inner.X, cfgt_lazy.X",
                cfgt_layers=f"X = {i}",
                cfgt_lazy=f"X = {i}",
                cfgt_pack__inner=f"X = {i}",
                **({"cfgt_pack____init__": ""} if i == 2 else {}),
            )
        )
    for i in (0, 1, 0):
        build = import_object("cfgt_model:build", made[i], "model.factory")
        with importable_from(made[i]):
            assert build() == (i + 1,) * 3
    assert not {str(m) for m in made} & set(sys.path)


def test_the_same_folder_is_not_imported_again(tmp_path: Path) -> None:
    base = folder(tmp_path, "f", cfgt_once="class A: pass")
    first = import_object("cfgt_once:A", base, "x")
    assert import_object("cfgt_once:A", base, "x") is first


def test_a_namesake_imported_from_elsewhere_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder(tmp_path, "other", cfgt_name="X = 'other'")
    monkeypatch.syspath_prepend(str(other))
    import cfgt_name  # type: ignore[import-not-found]

    assert cfgt_name.X == "other"
    mine = folder(tmp_path, "mine", cfgt_name="X = 'mine'")
    assert import_object("cfgt_name:X", mine, "x") == "mine"


def test_standard_modules_survive_a_namesake_beside_the_config(tmp_path: Path) -> None:
    import colorsys

    base = folder(tmp_path, "f", colorsys="X = 1", cfgt_entry="X = 2")
    assert import_object("cfgt_entry:X", base, "x") == 2
    assert sys.modules["colorsys"] is colorsys


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cfgt_bad", "not of the form 'module:callable'"),
        ("cfgt_bad.py:build", "cfgt_bad:build"),
        ("cfgt_none:build", "there is no module 'cfgt_none'"),
        ("cfgt_good:bulid", "did you mean 'build'"),
        ("cfgt_bad:build", "importing cfgt_bad failed: ZeroDivisionError"),
        ("cfgt_exits:build", "importing cfgt_exits failed: SystemExit"),
        ("cfgt_needs:build", "there is no module 'cfgt_missing_library'"),
        (":build", "not of the form"),
    ],
)
def test_what_cannot_be_imported_says_why(spec: str, says: str, tmp_path: Path) -> None:
    base = folder(
        tmp_path,
        "f",
        cfgt_good="def build(): ...",
        cfgt_bad="1/0",
        cfgt_exits="raise SystemExit(3)",
        cfgt_needs="import cfgt_missing_library",
    )
    with pytest.raises(ConfigError) as caught:
        import_object(spec, base, "model.factory")
    assert says in str(caught.value)
    assert "model.factory" in str(caught.value)
    assert str(base) not in sys.path


def test_config_is_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Config().fusion = "x"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "  "])
def test_a_modality_has_a_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"modalities.*a modality has an empty name"):
        check_config({"modalities": {name: "encoders.a", "b": "encoders.b"}}, base=tmp_path)


@pytest.mark.parametrize("value", ["others", "mean", "zero", "noise", "missing", 0, 103, -1.5])
def test_what_stands_for_an_absent_modality(value: str | float) -> None:
    config = check_config({"modalities": {"a": {"absent": value}, "b": None}}, base=Path())
    assert (config.modalities["a"].absent, config.modalities["b"].absent) == (value, "others")


@pytest.mark.parametrize(("value", "near"), [("zer", r" \(did you mean 'zero'\?\)"), (True, ""), (None, ""), ([0], "")])
def test_what_cannot_stand_for_it(value: object, near: str) -> None:
    with pytest.raises(ConfigError, match=f"'modalities.a.absent': expected others, .* or a number{near}"):
        check_config({"modalities": {"a": {"absent": value}}}, base=Path())


def test_a_name_on_the_hub_is_no_path_of_the_folder(tmp_path: Path) -> None:
    config = check_config({"modalities": {"a": "a", "b": "b"}}, base=tmp_path)
    with pytest.raises(ConfigError, match="acme/none"):
        config.resolve("hf://acme/none")


@pytest.mark.parametrize("choices", [["red", " Red"], ["a b", "a  B"], ["red", " "]])
def test_choices_of_answers_have_to_be_told_apart(choices: list[str]) -> None:
    with pytest.raises(ValidationError, match="choices must be told apart, whatever their case, found"):
        AnswersConfig(choices=tuple(choices))
    assert AnswersConfig(choices=("red", "green")).choices == ("red", "green")


def test_which_frames_are_examples_is_a_condition() -> None:
    assert EpisodesConfig(where=None).where is None
    assert EpisodesConfig(where="phase == 0").where == "phase == 0"
    with pytest.raises(ValidationError, match="is not FIELD OP INTEGER"):
        EpisodesConfig(where="phase is first")
