"""The options of every command, each declared once: its type, default and bounds, and how it is typed.

The command line makes its parameters and help texts of these models, ``diagnose()`` and ``repair()`` take their fields as
keyword arguments, ``gate CKPT`` those that say what they are there, and a report's command repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from collapsekit.config.fields import flag_of, word_of
from collapsekit.config.flags import TRUST_PICKLE, Flag
from collapsekit.config.values import check_value, kind_name
from collapsekit.context import Options, Profile
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.limits import MEMORY, SEEDS

DEFAULT_SPLITS = ("test", "val")  # the first that is there is diagnosed where none is named
# What a report's settings hold under its own name, in this order; its command names them first.
RECORDED = ("split", "seed", "profile", "device", "limit")
PLUGIN = "Python file with probes or adapters; repeatable."
BASELINE = Flag("Baseline to hold the report against.", short="-b")
Situation = Literal["auto", "paired", "retrained"]  # the gate's
Watched = Literal["metric", "use", "missing"]
WATCHED: tuple[Watched, ...] = get_args(Watched)
ALPHA = 0.05  # most false alarms over everything that the gate compares, where none is named
TRAINING_SEED = "Seed the model was trained with; default: the config's model.seed."


class CommandOptions(BaseModel):
    """Base of a command's options: what cannot be meant is a ConfigError of one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    command: ClassVar[str]

    @classmethod
    def make(cls, **values: Any) -> Self:
        """Return the options, checked.

        Raises ConfigError naming the one that is wrong, TypeError for one that there is not.
        """
        unknown = next((name for name in values if name not in cls.model_fields), None)
        if unknown is not None:
            near = did_you_mean(unknown, cls.model_fields)
            raise TypeError(f"{cls.command}() has no argument {unknown!r}{near}: it has {', '.join(cls.model_fields)}.")
        try:
            return cls(**values)
        except ValidationError as e:
            first = e.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "?"
            raise ConfigError(f"{name}: {first['msg']}, found {values.get(name)!r}.") from None

    def keywords(self) -> dict[str, Any]:
        """Return the fields by name, as the function of the same command takes them."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def changed(self) -> dict[str, Any]:
        """Those fields that are not as they are by default."""
        fields = type(self).model_fields
        return {name: value for name, value in self.keywords().items() if value != fields[name].get_default()}

    @field_validator("*", mode="before")
    @classmethod
    def _by_type(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        return check_value(str(info.field_name), value, field, flag_of(field))


class RunOptions(CommandOptions):
    """What a diagnosis and a repair both take."""

    profile: Annotated[
        Profile,
        Flag(
            "quick trains linear heads only; standard also baselines, within a budget; full all of them.",
            gate="CKPT: profile of the diagnosis.",
            repair="Of the diagnoses before and after.",
            again="always",
        ),
    ] = "standard"
    device: Annotated[
        str,
        Flag(
            "Where the model runs: cpu, cuda, cuda:1, mps.",
            gate="CKPT: where the model runs.",
            such_as="'cpu' or 'cuda:1'",
        ),
    ] = "cpu"
    seed: Annotated[
        int,
        Field(ge=0, lt=SEEDS),
        Flag("Seed of everything drawn or trained.", gate="CKPT: seed of the diagnosis.", again="always"),
    ] = 0
    limit: Annotated[
        int | None,
        Field(ge=1, lt=SEEDS),
        Flag(
            "FOR TRYING OUT: at most so many examples a split.",
            gate="CKPT: at most so many examples a split.",
            unit="example",
            bounded=True,
        ),
    ] = None
    plugins: Annotated[
        tuple[str | Path, ...],
        Flag(PLUGIN, gate=f"CKPT: {PLUGIN}", repair="Python file with repairs; repeatable.", name="plugin"),
    ] = ()
    trust_pickle: Annotated[str | None, TRUST_PICKLE] = None
    cache: str | Path | None = None  # where trained baselines are kept; default: the user's cache folder


class ProbeOptions(CommandOptions):
    """What is measured: the split and the probes."""

    split: Annotated[
        str | None,
        Flag(
            "Split to diagnose; default: {default}.",
            gate="CKPT: split to diagnose; default: {default}.",
            unset=DEFAULT_SPLITS,
        ),
    ] = None
    probes: Annotated[
        tuple[str, ...] | None,
        Flag("Run only this probe; repeatable.", name="probe", short="-p", completes="probes"),
    ] = None
    skip: Annotated[tuple[str, ...], Flag("Leave this probe out; repeatable.", completes="probes")] = ()
    options: Annotated[
        Mapping[str, Mapping[str, Any]] | None,
        Flag("Set a probe's option; repeatable.", name="set", metavar="PROBE.OPTION=VALUE"),
    ] = None


class DiagnoseOptions(RunOptions, ProbeOptions):
    """What ``collapsekit diagnose`` does."""

    command: ClassVar[str] = "diagnose"
    training_seed: Annotated[
        int | None, Field(ge=0, lt=SEEDS), Flag(TRAINING_SEED, gate=TRAINING_SEED, bounded=True)
    ] = None
    memory: Annotated[
        float | None,
        Field(ge=0),
        Flag(
            "GiB of inputs and features kept in memory; more is mapped from files. Default: {default}.",
            unset=MEMORY,
            factor=2**30,
            unit="byte",
            bounded=True,
            again="never",  # it changes no result
        ),
    ] = None
    controls: Annotated[
        bool,
        Flag(
            "Leave out the controls: shuffled answers, an untrained build, a copy that is never read.",
            name="no-controls",
        ),
    ] = True
    subsets: Annotated[bool, Flag("Also run growing, over the models of the config's `subsets`.")] = False


class PlanOptions(CommandOptions):
    """What ``collapsekit plan`` asks."""

    command: ClassVar[str] = "plan"
    split: Annotated[
        str | None, Flag("Split that the model is asked about; default: {default}.", unset=DEFAULT_SPLITS)
    ] = None
    seed: Annotated[int, Field(ge=0, lt=SEEDS), Flag("Seed of everything drawn.")] = 0
    limit: Annotated[
        int | None,
        Field(ge=1, lt=SEEDS),
        Flag("At most so many examples a split.", unit="example", bounded=True),
    ] = None
    budget: Annotated[
        int | None,
        Field(ge=1, lt=SEEDS),
        Flag("At most so many questions: fewer draws of each absent modality.", unit="question", bounded=True),
    ] = None
    format: Annotated[str, Flag("How questions are written: plain, parquet, openai-batch or vllm.")] = "plain"
    options: Annotated[
        Mapping[str, Mapping[str, Any]] | None,
        Flag("Set a probe's option; repeatable.", name="set", metavar="PROBE.OPTION=VALUE"),
    ] = None


class Training(Options):
    """How stages are trained; the same for a method and for the fine-tuning it is judged beside."""

    epochs: Annotated[
        int, Field(ge=1), Flag("At most so many epochs a stage (default {default}; thrice for a warm-up).")
    ] = 30
    steps: Annotated[int | None, Field(ge=1), Flag("At most so many optimiser steps a stage.")] = None
    optimizer: Annotated[Literal["adamw", "sgd"], Flag("sgd: with a momentum of 0.9 (default {default}).")] = "adamw"
    rate: Annotated[float, Field(gt=0), Flag("Learning rate (default {default}).", name="lr")] = 1e-3
    batch: Annotated[int, Field(ge=2), Flag("Examples a batch (default {default}).", name="batch-size")] = 64
    accumulate: Annotated[int, Field(ge=1), Flag("Batches an optimiser step (default {default}).")] = 1
    clip: Annotated[float | None, Field(gt=0), Flag("Largest norm of the gradient (default {default}).")] = 1.0
    weight_decay: Annotated[float, Field(ge=0), Flag("Weight decay (default {default}).")] = 1e-4
    schedule: Annotated[  # paper: times 0.9 every 100 epochs
        Literal["cosine", "constant", "paper"], Flag("Of the learning rate (default {default}).")
    ] = "cosine"
    patience: Annotated[int, Field(ge=1), Flag("Epochs without improvement (default {default}).")] = 8
    amp: Annotated[bool, Flag("Train in bfloat16 where torch's autocast does.")] = False
    compile: Annotated[bool, Flag("Train with torch.compile, which takes its time to begin.")] = False
    fsdp: Annotated[bool, Flag("Share out weights and moments: torchrun --nproc-per-node N -m collapsekit repair.")] = (
        False
    )
    freeze: Annotated[tuple[str, ...], Flag("Leave this submodule as it is; repeatable.")] = ()


def check_training(settings: object) -> Training:
    """Training settings, checked. Raises ConfigError naming the one that is wrong."""
    if isinstance(settings, Training):
        return settings
    if not isinstance(settings, Mapping | None):
        raise ConfigError(f"training is {kind_name(settings)}, expected a mapping of settings such as {{'epochs': 5}}.")
    values = dict(settings or {})
    try:
        return Training(**values)
    except ValidationError as e:
        first = e.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        if first["type"] == "extra_forbidden":
            known = list(Training.model_fields)
            near = did_you_mean(name, known)
            raise ConfigError(f"there is no training setting {name!r}{near}: {', '.join(known)}.") from None
        word = word_of(Training, name)
        typed = "" if word == f"--{name}" else f" ({word})"
        raise ConfigError(f"training setting {name!r}{typed}: {first['msg']}, found {values.get(name)!r}.") from None


class MethodOptions(CommandOptions):
    """What is repaired, how it is trained, and what becomes of it."""

    method: Annotated[
        str | tuple[str, ...] | None,
        Flag(
            "Repair, or several in order: kd,dropout; default: recommended from the diagnosis.",
            short="-m",
            completes="repairs",
        ),
    ] = None
    modalities: Annotated[
        tuple[str, ...] | None,
        Flag("Repair this modality; repeatable; default: those collapsed or underused on val.", name="modality"),
    ] = None
    options: Annotated[
        Mapping[str, Mapping[str, Any]] | None,
        Flag("Set a repair's option; repeatable.", name="set", metavar="METHOD.OPTION=VALUE"),
    ] = None
    training: Training = Training()
    tensorboard: Annotated[
        str | Path | None, Flag("Write losses and learning rates there for TensorBoard.", metavar="DIR")
    ] = None
    control: Annotated[bool, Flag("Also fine-tune plainly, to judge the repair beside it.")] = True
    keep: Annotated[bool, Flag("Export the weights even where they are rejected.")] = False
    resume: Annotated[bool, Flag("Go on from an interrupted repair's snapshots.")] = False
    force: Annotated[bool, Flag("Replace what is in the folder.")] = False

    @field_validator("training", mode="before")
    @classmethod
    def _training(cls, value: object) -> Training:
        return check_training(value)


class RepairOptions(RunOptions, MethodOptions):
    """What ``collapsekit repair`` does."""

    command: ClassVar[str] = "repair"


class GateConfig(BaseModel):
    """What ``collapsekit gate`` decides by; the command line goes first."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    # Rules; default: verdict != collapsed, where there is no baseline.
    require: Annotated[
        tuple[str, ...] | None,
        Flag(
            "Rule the report has to meet, by names that list -v shows; repeatable; replaces the config's.",
            short="-r",
            metavar="RULE",
        ),
    ] = None
    baseline: str | None = None  # a file that `collapsekit baseline create` wrote
    watch: Annotated[
        tuple[str, ...] | None,
        Flag(f"What is compared: {', '.join(WATCHED)}; repeatable.", metavar="KIND"),
    ] = None
    alpha: Annotated[
        float | None, Flag("Most false alarms, over everything compared; default: {default}.", unset=ALPHA)
    ] = None
    margins: Annotated[
        dict[str, float],
        Flag("A fall under this is none to fail for; repeatable.", name="margin", metavar="KIND=VALUE"),
    ] = {}
    effects: Annotated[
        dict[str, float],
        Flag("A fall that must not be missed, else inconclusive.", name="effect", metavar="KIND=VALUE"),
    ] = {}
    allow_partial: Annotated[bool, Flag("Also pass what was only partly judged, which is recorded.")] = False


class GateOptions(CommandOptions, GateConfig):
    """What ``collapsekit gate`` decides, by the command line."""

    model_config = ConfigDict(allow_inf_nan=True)  # the gate's limits say what is wrong with these numbers
    command: ClassVar[str] = "gate"
    baseline: Annotated[str | Path | None, BASELINE] = None  # type: ignore[assignment]  # may be a Path
    situation: Annotated[
        Situation,
        Flag("Same training run (paired) or another (retrained); auto: told by weights and seeds."),
    ] = "auto"


class CompareOptions(CommandOptions):
    """What ``collapsekit compare`` shows."""

    command: ClassVar[str] = "compare"
    against: Annotated[
        str | None,
        Flag("Column that the others are tested against; default: the first of several runs.", metavar="NAME"),
    ] = None
    base: Annotated[
        str | None,
        Flag("Column that changes are told against; default: the tests' reference, else the first.", metavar="NAME"),
    ] = None
    only: Annotated[
        tuple[str, ...], Flag("Numbers to show, such as 'vif.*' or score; repeatable.", metavar="GLOB")
    ] = ()
    every: Annotated[bool, Flag("Show every number.", name="all")] = False


class BaselineOptions(CommandOptions):
    """What a baseline keeps of reports."""

    command: ClassVar[str] = "baseline"
    records: Annotated[
        bool,
        Flag("Leave out what is known of each example: smaller, but nothing can be paired.", name="no-records"),
    ] = True
