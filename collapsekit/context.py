"""What a probe is told besides the model and its features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Options(BaseModel):
    """Base of a probe's options: typed, with defaults; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def check_modalities(self, known: Sequence[str]) -> None:
        """Raise ConfigError for an option that names a modality that is none of those ``known``: none does here."""

    def training_defaults(self) -> Mapping[str, Any]:
        """Give the training settings that go with these options where the user names none, as a preset of a repair brings
        them: none here."""
        return {}

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: object, info: ValidationInfo) -> object:
        """A tuple may be given as text, its parts separated by commas, as --set does."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, str) and any(get_origin(k) is tuple for k in (kind, *get_args(kind))):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value


Kind = TypeVar("Kind", bound=Options)

# How much a diagnosis may train.
Profile = Literal["quick", "standard", "full"]
# quick: trains only linear heads on cached features; standard: the unimodal baselines too, within a budget that it says;
# full: these over the whole grid, however long it takes.


# Stages of a job in their order, each with the seconds it is reckoned at, or with the stages inside it. Inside, those under
# the empty name are of whatever no other stage stands for.
Stages = Mapping[str, float | Mapping[str, float]]


class Progress:
    """Where long work says how far it is; this one is silent."""

    planned = False  # whether it wants to hear of stages, which take a moment to reckon
    writing = 0.0  # seconds that whoever follows will take after a diagnosis, for its files

    def plan(self, stages: Stages) -> None:
        """Tell what the stage that runs, or the whole job, consists of from here on: names and reckoned seconds."""

    def begin(self, stage: str) -> None:
        """Tell that a stage of the plan begins, with which the one before it ends."""

    def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
        """Show that ``done`` of ``total`` of ``what`` is finished.

        Args:
            what: What is counted, in words.
            done: How many are finished.
            total: How many there are; None where that is not known.
            said: How it stands, e.g. a loss.
        """

    def note(self, text: str) -> None:
        """Show one sentence that the user should see before or while something expensive runs."""

    def announce(self, text: str) -> None:
        """Show one sentence on whose code will run, such as which config is used; commands show it even where they are
        quiet.
        """

    def fault(self, text: str) -> None:
        """Log an error that nobody foresaw, with its traceback: what is quiet is told of it too."""
        logging.getLogger("collapsekit").error(text)


@dataclass(frozen=True)
class Settings:
    """Options of the probe, and what is the same for all of them."""

    options: Options = field(default_factory=Options)
    seed: int = 0
    level: float = 0.95
    profile: Profile = "standard"
    progress: Progress = field(default_factory=Progress)
    cache: Path | None = None  # where trained baselines are kept; None: nowhere
    others: Mapping[str, Options] = field(default_factory=dict)  # options of all probes, by name

    def own(self, kind: type[Kind]) -> Kind:
        """Return this probe's options, as the type it registered."""
        assert isinstance(self.options, kind)
        return self.options

    def of(self, probe: str, kind: type[Kind]) -> Kind:
        """Return another probe's options, so that what two probes share is asked for alike and computed once."""
        found = self.others.get(probe)
        return found if isinstance(found, kind) else kind()
