"""What the callbacks of `lightning` and of `pytorch_lightning` have in common; imports neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from collapsekit.ext import MISSING, Config, ConfigError, find_field, find_submodule
from collapsekit_callbacks.monitor import Log, Monitor
from collapsekit_callbacks.pipeline.asking import Loss
from collapsekit_callbacks.watch import Spec, Watch


class MonitorHooks:
    """Makes a Monitor when fitting starts, and steps it after every batch by the trainer's global step.

    ``batch``, ``config`` and the rest: as ``Monitor`` takes them. ``module``: which submodule of the LightningModule is
    the model (its own forward is called, and the config's paths start there); default: the LightningModule itself.
    ``log``: default: the trainer's loggers.
    """

    def __init__(
        self,
        batch: Mapping[str, Any],
        config: str | Path | Mapping[str, Any] | Config | None = None,
        *,
        module: str | None = None,
        log: Log | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.batch, self.config, self.module, self.hook, self.options = batch, config, module, log, options
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        model, log = _model(pl_module, self.module), self.hook or _logs_to(trainer)
        self.monitor = Monitor(model, self.batch, self.config, log=log, **self.options)
        self.monitor.start(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self.monitor is not None:
            self.monitor.step(trainer.global_step)


class WatchHooks:
    """Makes a Watch when fitting starts, and steps it after every batch.

    ``modalities``, ``loss`` and the rest: as ``Watch`` takes them. ``module``: which submodule of the LightningModule is the
    model whose forward is called; default: the LightningModule itself. ``label``: where the label lies in a batch (a key, or
    the position in a tuple), where forward is not given it. ``log``: default: the trainer's loggers.
    """

    def __init__(
        self,
        modalities: Mapping[str, Spec],
        *,
        module: str | None = None,
        label: str | int | None = None,
        loss: Loss | None = None,
        log: Log | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.modalities, self.module, self.label, self.loss, self.hook = modalities, module, label, loss, log
        self.options = options
        self.watch: Watch | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            options = {"loader": getattr(trainer, "train_dataloader", None), **self.options}
            model, log = _model(pl_module, self.module), self.hook or _logs_to(trainer)
            self.watch = Watch(model, self.modalities, loss=self.loss, log=log, **options)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.watch is not None:
            self.watch.step(trainer.global_step, None if self.label is None else _label(batch, self.label))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.watch is not None:
            self.watch.close()


def _model(pl_module: nn.Module, path: str | None) -> nn.Module:
    return pl_module if path is None else find_submodule(pl_module, path, "module")


def _logs_to(trainer: Any) -> Log:
    def log(values: Mapping[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=step)

    return log


def _label(batch: Any, path: str | int) -> Any:
    found = find_field(batch, str(path))
    if found is MISSING:
        raise ConfigError(f"a batch has no label at {path!r}: name its key, or its position in the tuple.")
    return found
