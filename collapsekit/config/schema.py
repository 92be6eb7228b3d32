"""collapsekit.yaml, or ``[tool.collapsekit]`` in pyproject.toml, as a checked Config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from collapsekit.config.options import GateConfig
from collapsekit.config.regions import parse_region, parse_where
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.files import reason
from collapsekit.io.hub import is_hub_name, locate
from collapsekit.io.limits import SEEDS
from collapsekit.io.safe_text import quote

CONFIG_NAME = "collapsekit.yaml"
_OURS = ("structure", "base", "origin", "file")  # set by us, never by the file
Pool = Literal["auto", "mean", "max", "first", "last", "flatten"]


def _plain(value: Any) -> Any:
    """Plain data only: what a YAML file can say, and a report can repeat."""
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) for k in value):
            raise ValueError("keys must be names")
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite, found {value}")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"expected plain values (numbers, text, lists, mappings), found {type(value).__name__}")


Absence = Literal["others", "mean", "zero", "noise", "missing"]


def _absence(value: Any) -> Any:
    """A word, or a number; the ``null`` that YAML makes of nothing is no value."""
    known = get_args(Absence)
    if value in known or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    near = did_you_mean(value, known) if isinstance(value, str) else ""
    raise ValueError(f"expected {', '.join(known)} or a number{near}")


Plain = Annotated[dict[str, Any], BeforeValidator(_plain)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class ModelConfig(_Section):
    """Where the module comes from and which weights it gets."""

    factory: str | None = None  # "module:callable" -> torch.nn.Module
    kwargs: Plain = {}
    checkpoint: str | None = None
    base: str | None = None  # the weights that an adapter in checkpoint (PEFT, LoRA) was trained on
    ignore: tuple[str, ...] = ()  # patterns (fnmatch) of names in the checkpoint that the model does not need
    weights: Literal["model", "ema"] = "model"  # ema: the averages that training kept beside them in the same file
    one_by_one: bool = (
        False  # whether each example is run by itself, as the model takes one, or answers for a whole batch
    )
    samples: int = Field(default=1, gt=0, le=4096)  # seeds an answer is averaged over, of a model random in eval mode
    seed: int | None = Field(
        default=None, ge=0, lt=SEEDS
    )  # that it was trained with, by which the gate tells runs apart


class ModalityConfig(_Section):
    """One modality: its encoder and how its features become one vector an example."""

    encoder: str | None = None  # submodule path; "name:input" = what enters that submodule
    input: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = (
        None  # batch key(s); default: the modality's own name
    )
    slice: str | None = None  # which part of the input it is: "[3]", "[2:4]", "[..., 0]", without the batch axis
    where: str | None = None  # which tokens of the input it is: "segment == 0"
    scale: float = Field(default=1.0, gt=0)  # inputs are divided by this
    select: str | int | None = None  # which part of a tuple or dict output; default: its first tensor
    pool: Pool = "auto"  # how tokens or feature maps become one vector
    channels: Literal["first", "last"] | None = None  # where a 3-d or larger output has its features
    mask: str | None = None  # batch key of a token mask (1 = keep) used in pooling
    # What a coalition without it is given in its place; a number, such as a mask token's id, stands at every place.
    absent: Annotated[Absence | float, BeforeValidator(_absence)] = "others"
    # Batch key of what your own model of this modality alone predicts, (n, ...): its due is read from that, too.
    predictions: str | None = None


class EpisodesConfig(_Section):
    """How frames of a robot's logged episodes become examples (`docs/robot.md`)."""

    horizon: int | None = Field(
        default=None, gt=0, le=10_000
    )  # actions of an example: the frame's and those that follow
    observed: int | None = Field(default=None, gt=0, le=100)  # frames an observation holds, the frame itself the last
    every: int = Field(default=1, gt=0, le=100_000)  # every how many-th frame of an episode is an example
    phases: int = Field(default=3, gt=0, le=100)  # equal parts of an episode that the field `phase` numbers
    where: str | None = None  # which frames are examples: "phase == 0", "subtask_index in [1, 2]"
    normalise: dict[str, Literal["mean_std", "min_max"]] = {}  # by batch key, as the policy was trained
    splits: dict[Literal["train", "val", "test"], str] = {}  # episodes of each, such as "0:40"; default: see docs

    @field_validator("where")
    @classmethod
    def _condition(cls, value: str | None) -> str | None:
        if value is not None:
            parse_where("frames", value)
        return value


class DataConfig(_Section):
    """Where the examples come from."""

    path: str | None = None
    factory: str | None = None
    kwargs: Plain = {}
    label: str = "label"
    also: tuple[str, ...] = ()  # further batch keys the model's forward takes
    edit: Literal["batches", "examples"] = (
        "batches"  # where modalities are exchanged: after or before they are collated
    )
    padding: dict[str, float] = {}  # by batch key what examples of several lengths are filled up with; default: 0
    match: tuple[str, ...] = ()  # batch keys in which examples must be equal to lend one another a modality
    group: str | None = None  # batch key of what examples belong to (patient, speaker): intervals leave out whole ones
    category: str | None = None  # batch key of an example's kind (question type): each kind is judged as well
    episodes: EpisodesConfig | None = None  # how a recording of episodes in `path` is read
    batch_size: int = Field(default=256, gt=0, le=2**31 - 1)


class SubsetConfig(_Section):
    """A model trained on some of the modalities only, for ``diagnose --subsets``."""

    modalities: tuple[str, ...]
    checkpoint: str
    kwargs: Plain = {}  # over those of model.kwargs; with a factory of its own, in their place
    factory: str | None = None


class AnswersConfig(_Section):
    """How a model that lives elsewhere is asked, and its answers read (`collapsekit plan` and `score`)."""

    choices: tuple[str, ...] = ()  # what the model calls each class, in the order of labels
    instruction: str | None = None  # text that follows an example's parts in a request
    model: str | None = None  # the name under which requests ask for the model
    # Whether it is also asked with the text and nothing else, where choices are named and one modality is text.
    text_only: bool = True
    tokenizer: str | None = None  # a tokenizer.json, or its folder: what `plan` counts the tokens of text by

    @field_validator("choices")
    @classmethod
    def _told_apart(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        spelt = [" ".join(choice.casefold().split()) for choice in value]
        if not all(spelt) or len(set(spelt)) < len(spelt):
            raise ValueError(f"choices must be told apart, whatever their case, found {', '.join(map(repr, value))}")
        return value


class Config(_Section):
    """The whole config; ``base`` is the folder it was found in, ``origin`` what to call it in messages, ``file`` where it
    was read, absolute, or None for one that was made in Python."""

    adapter: str = "module"
    options: Plain = {}  # handed to a Python adapter as they are
    model: ModelConfig = ModelConfig()
    modalities: dict[str, ModalityConfig] = {}
    fusion: str | None = None
    head: str | None = None
    output: str | int | tuple[str | int, ...] | None = None  # which part of the model's output is the prediction
    batch: tuple[str, ...] = ()  # names of the parts of batches that are tuples, in order
    call: Literal["kwargs", "dict", "positional", "list"] = "kwargs"
    task: str = "classification"
    metric: str | None = None
    metrics: tuple[str, ...] = ()  # further ones of the task, told beside that one
    temperature: float = Field(default=0.07, gt=0)  # retrieval only
    task_options: Plain = {}  # of the task, such as `shift` of tokens
    data: DataConfig = DataConfig()
    subsets: tuple[SubsetConfig, ...] = ()
    answers: AnswersConfig = AnswersConfig()
    gate: GateConfig = GateConfig()
    plugins: tuple[str, ...] = ()
    structure: tuple[dict[str, Any], ...] = Field(default=(), exclude=True)  # what a repair put into the model
    base: Path = Field(default=Path(), exclude=True)
    origin: str = Field(default=CONFIG_NAME, exclude=True)
    file: Path | None = Field(default=None, exclude=True)

    @field_validator("modalities", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        # `audio: encoders.audio` is short for `audio: {encoder: encoders.audio}`, `audio:` for no options.
        if not isinstance(value, Mapping):
            return value
        if any(isinstance(k, str) and not k.strip() for k in value):
            raise ValueError("a modality has an empty name: give it one")
        return {k: {"encoder": v} if isinstance(v, str) else ({} if v is None else v) for k, v in value.items()}

    @field_validator("modalities")
    @classmethod
    def _parts_of_fields(cls, value: dict[str, ModalityConfig]) -> dict[str, ModalityConfig]:
        for m, section in value.items():
            try:
                parse_region(m if section.input is None else section.input, section.slice, section.where)
            except ValueError as e:
                raise ValueError(f"modality {m!r}: {e}") from None
        return value

    @field_validator("data")
    @classmethod
    def _predictions_are_no_labels(cls, value: DataConfig, info: ValidationInfo) -> DataConfig:
        for m, section in (info.data.get("modalities") or {}).items():
            if section.predictions == value.label:
                raise ValueError(
                    f"predictions of modality {m!r} are {value.label!r}, the label: name what a model of {m} predicts"
                )
        return value

    @field_validator("subsets")
    @classmethod
    def _of_the_modalities(cls, value: tuple[SubsetConfig, ...], info: ValidationInfo) -> tuple[SubsetConfig, ...]:
        known = info.data.get("modalities")
        if known is None:  # wrong themselves, and said so
            return value
        for subset in value:
            names = "+".join(subset.modalities)
            for m in subset.modalities:
                if m not in known:
                    raise ValueError(
                        f"there is no modality {m!r}{did_you_mean(m, known)}: known are {', '.join(known) or 'none'}"
                    )
            if len(set(subset.modalities)) < len(subset.modalities):
                raise ValueError(f"{names} names a modality twice")
            if not 2 <= len(subset.modalities) < len(known):
                raise ValueError(
                    f"a subset has at least two modalities and fewer than all {len(known)}, found {names or 'none'}"
                )
        if len({frozenset(subset.modalities) for subset in value}) < len(value):
            raise ValueError("two subsets are of the same modalities: keep one")
        return value

    def need_subsets(self) -> tuple[SubsetConfig, ...]:
        """Return the ``subsets`` section. Raises ConfigError, saying what to write, where there is none."""
        if self.subsets:
            return self.subsets
        if len(self.modalities) < 3:
            raise ConfigError(
                f"{self.origin} has {len(self.modalities)} modalities, and no subset of them has two: --subsets and the "
                "probe growing are for models of three or more."
            )
        m = list(self.modalities)[:2]
        example = f"{{modalities: [{', '.join(m)}], checkpoint: {'_'.join(m)}.pt, kwargs: {{...}}}}"
        raise ConfigError(
            f"{self.origin} has no `subsets`, the models trained on some of the modalities: list each of them there, e.g. "
            f"`subsets: [{example}]`, with the model.kwargs that make it."
        )

    def with_subset(self, subset: SubsetConfig) -> Config:
        """Return the config of the model trained on ``subset`` alone."""
        own = subset.factory is not None
        model = ModelConfig(
            factory=subset.factory if own else self.model.factory,
            kwargs=subset.kwargs if own else {**self.model.kwargs, **subset.kwargs},
            checkpoint=subset.checkpoint,
            ignore=self.model.ignore,
            weights=self.model.weights,
            one_by_one=self.model.one_by_one,
            samples=self.model.samples,
        )
        kept = {m: section for m, section in self.modalities.items() if m in subset.modalities}
        return self.model_copy(
            update={
                "model": model,
                "modalities": kept,
                "subsets": (),
                "structure": (),
                "data": self.data.model_copy(update={"group": None, "category": None}),
            }
        )

    def resolve(self, path: str) -> Path:
        """Return a path from the config, relative to the config's own folder; of `hf://ORG/NAME` where the cache has it.

        Raises ConfigError for one no file can have.
        """
        if is_hub_name(path):
            return locate(path)
        try:
            found = self.base / Path(path).expanduser()
            found.exists()  # raises where the name is too long or a folder on the way may not be entered
            if "\0" in path:
                raise ValueError("it holds a NUL character")
        except (OSError, ValueError, RuntimeError) as e:  # RuntimeError: no such user after ~
            why = reason(e) if isinstance(e, OSError) else str(e)
            raise ConfigError(f"{self.origin} names the path {quote(path)}, which cannot be used: {why}.") from None
        return locate(found)
