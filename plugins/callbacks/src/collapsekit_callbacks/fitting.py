"""What the callbacks of `lightning` and of `pytorch_lightning` have in common; imports neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapsekit.ext import Config, find_submodule
from collapsekit_callbacks.monitor import Log, Monitor


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
        model = pl_module if self.module is None else find_submodule(pl_module, self.module, "module")

        def to_trainer(values: Mapping[str, float], step: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(dict(values), step=step)

        self.monitor = Monitor(model, self.batch, self.config, log=self.hook or to_trainer, **self.options)
        self.monitor.start(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self.monitor is not None:
            self.monitor.step(trainer.global_step)
