"""The callback for Trainer of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from collapsekit.ext import Config, ConfigError
from collapsekit_callbacks.monitor import Log, Monitor
from collapsekit_callbacks.watch import Spec, Watch


class CollapseMonitor(TrainerCallback):
    """Makes a Monitor of the trainer's model when training starts, and steps it after every optimiser step.

    ``batch``, ``config`` and the rest: as ``Monitor`` takes them. Numbers go to ``log``, else to ``trainer.log`` of the
    trainer that ``attach`` was called with (and so to wherever ``report_to`` says): transformers tells callbacks nothing
    of their trainer.
    """

    def __init__(
        self,
        batch: Mapping[str, Any],
        config: str | Path | Mapping[str, Any] | Config | None = None,
        *,
        log: Log | None = None,
        **options: Any,
    ) -> None:
        self.batch, self.config, self.hook, self.options = batch, config, log, options
        self.trainer: Trainer | None = None
        self.monitor: Monitor | None = None

    def attach(self, trainer: Trainer) -> CollapseMonitor:
        """Add this callback to ``trainer``, and log through it where no ``log`` was given."""
        self.trainer = trainer
        trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        if self.hook is None and self.trainer is None:
            raise ConfigError(
                "CollapseMonitor has nowhere to log to: call CollapseMonitor(...).attach(trainer) instead of naming it in "
                "callbacks=[...], or give it log=."
            )

        def to_trainer(values: Mapping[str, float], step: int) -> None:
            assert self.trainer is not None
            wanted = control.should_log  # Trainer.log takes it as answered, and its own loss would be left out
            self.trainer.log(dict(values))
            control.should_log = wanted

        self.monitor = Monitor(kwargs["model"], self.batch, self.config, log=self.hook or to_trainer, **self.options)
        self.monitor.start(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.monitor is not None:
            self.monitor.step(state.global_step)


class PipelineWatch(TrainerCallback):
    """Makes a Watch of the trainer's model when training starts, and steps it after every optimiser step; TRL's trainers
    are such trainers.

    ``modalities`` and the rest: as ``Watch`` takes them. Labels and loss are those that the trainer gives the model and gets
    from it. ``log``: where the losses with and without each modality go; default: nowhere, and findings are warnings.
    """

    def __init__(self, modalities: Mapping[str, Spec], *, log: Log | None = None, **options: Any) -> None:
        self.modalities, self.log, self.options = modalities, log, options
        self.watch: Watch | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            options = {"loader": kwargs.get("train_dataloader"), **self.options}
            self.watch = Watch(kwargs["model"], self.modalities, log=self.log, **options)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.watch is not None:
            self.watch.step(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.watch is not None:
            self.watch.close()
