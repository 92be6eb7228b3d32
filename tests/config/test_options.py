"""Options are declared once: what the models say is what Python takes, what help says and what is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError

from collapsekit import diagnose, repair
from collapsekit.config.fields import flag_of, help_of, is_optional, word_of
from collapsekit.config.keywords import DiagnoseKeywords, RepairKeywords
from collapsekit.config.options import (
    BaselineOptions,
    CommandOptions,
    CompareOptions,
    DiagnoseOptions,
    GateConfig,
    GateOptions,
    RepairOptions,
    Training,
)
from collapsekit.errors import ConfigError
from collapsekit.repairs.run import plan

MODELS: tuple[type[CommandOptions], ...] = (
    DiagnoseOptions,
    RepairOptions,
    GateOptions,
    CompareOptions,
    BaselineOptions,
)
# What version 0.1.0 took, which others' code gives by name; ``...``: it has to be given.
PUBLIC: dict[Any, dict[str, Any]] = {
    diagnose: {
        "checkpoint": None,
        "config": None,
        "model": None,
        "data": None,
        "split": None,
        "probes": None,
        "skip": (),
        "options": None,
        "profile": "standard",
        "device": "cpu",
        "seed": 0,
        "limit": None,
        "training_seed": None,
        "subsets": False,
        "plugins": (),
        "trust_pickle": None,
        "progress": None,
        "cache": None,
        "memory": None,
    },
    repair: {
        "checkpoint": None,
        "output": ...,
        "config": None,
        "method": None,
        "modalities": None,
        "options": None,
        "training": Training(),  # which None stands for, too
        "control": True,
        "keep": False,
        "resume": False,
        "force": False,
        "profile": "standard",
        "device": "cpu",
        "seed": 0,
        "limit": None,
        "plugins": (),
        "trust_pickle": None,
        "progress": None,
        "cache": None,
        "tensorboard": None,
    },
}
LATER: dict[Any, dict[str, Any]] = {
    diagnose: {"controls": True, "unfinished": None, "resume": False}
}  # what came after it


@pytest.mark.parametrize("function", list(PUBLIC), ids=lambda f: f.__name__)
def test_python_takes_what_it_took(function: Any) -> None:
    shown = inspect.signature(function).parameters
    found = {n: ... if p.default is inspect.Parameter.empty else p.default for n, p in shown.items()}
    assert found == {**PUBLIC[function], **LATER.get(function, {})}
    assert [n for n, p in shown.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY] == ["checkpoint"]


@pytest.mark.parametrize(("model", "keywords"), [(DiagnoseOptions, DiagnoseKeywords), (RepairOptions, RepairKeywords)])
def test_type_checkers_see_every_option(model: type[CommandOptions], keywords: Any) -> None:
    hints = get_type_hints(keywords)
    for name, field in model.model_fields.items():
        assert name in hints, f"add to {keywords.__name__}: {name}: {field.annotation}"
        if name != "training":  # which may be left out by None, too
            assert is_optional(hints[name]) == is_optional(field.annotation), name
    assert set(hints) == set(model.model_fields)


@pytest.mark.parametrize("call", [diagnose, plan])
def test_an_option_that_there_is_not_is_named_with_the_nearest(call: Any) -> None:
    with pytest.raises(TypeError, match=r"has no argument 'sead' \(did you mean 'seed'\?\)"):
        call(sead=1)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_options_are_kept_as_they_are(model: type[CommandOptions]) -> None:
    made = model()
    assert model.make(**made.keywords()) == made
    assert made.changed() == {}
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, next(iter(model.model_fields)), None)


def test_what_is_not_by_default_is_told() -> None:
    made = DiagnoseOptions.make(seed=3, plugins=["a.py"], skip=[], limit=None)
    assert made.changed() == {"seed": 3, "plugins": ("a.py",)}
    assert RepairOptions.make(training=None, control=False).changed() == {"control": False}


WRONG: list[tuple[type[CommandOptions], dict[str, Any], str]] = [
    (RepairOptions, {"training": 3}, "training is int, expected a mapping of settings such as {'epochs': 5}."),
    (RepairOptions, {"method": 3}, "method is 3, expected a list of names."),
    (RepairOptions, {"tensorboard": 3}, "tensorboard is int, expected the path of a file or folder."),
    (GateOptions, {"situation": "other"}, "there is no situation 'other': auto, paired, retrained."),
    (GateOptions, {"alpha": "x"}, "alpha is 'x', expected a finite number."),
    (GateOptions, {"margins": 3}, "margins: Input should be a valid dictionary, found 3."),
    (CompareOptions, {"only": "vif"}, "only is 'vif', expected a list of names."),
    (BaselineOptions, {"records": 1}, "records is 1, expected True or False."),
]  # fmt: skip


@pytest.mark.parametrize(("model", "given", "sentence"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_value_is_one_sentence(model: type[CommandOptions], given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model.make(**given)
    assert str(caught.value) == sentence


def test_paths_are_text_or_path_whatever_names_them(tmp_path: Path) -> None:
    class Named:
        def __fspath__(self) -> str:
            return str(tmp_path)

    made = DiagnoseOptions.make(plugins=[Named(), "a.py"], cache=Named())
    assert made.plugins == (tmp_path, "a.py")
    assert made.cache == tmp_path


def test_help_says_the_default_that_the_model_has() -> None:
    for model, name, factor in ((Training, "rate", 1), (Training, "optimizer", 1), (Training, "clip", 1)):
        field = model.model_fields[name]
        flag = flag_of(field)
        assert flag is not None
        for default in (field.default, "other", 0.25):
            field_of_other = type(field).merge_field_infos(field, default=default)
            shown = default if isinstance(default, str) else f"{default / factor:g}"
            assert f"default {shown}" in help_of(field_of_other, flag, "repair")


def test_the_config_and_the_command_line_say_the_same_of_a_gate() -> None:
    """A new option of the gate is one of both."""
    assert set(GateConfig.model_fields) <= set(GateOptions.model_fields)
    for name, field in GateConfig.model_fields.items():
        if name != "baseline":  # where a path leads depends on who names it
            assert GateOptions.model_fields[name].default == field.default


def test_words_are_told_apart() -> None:
    for model in (*MODELS, Training):
        words = [word_of(model, name) for name, field in model.model_fields.items() if flag_of(field) is not None]
        shorts = [flag.short for f in model.model_fields.values() if (flag := flag_of(f)) is not None and flag.short]
        assert len(set(words)) == len(words)
        assert len(set(shorts)) == len(shorts)
