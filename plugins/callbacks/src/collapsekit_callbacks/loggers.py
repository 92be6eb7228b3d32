"""Hooks that write a monitor's numbers to TensorBoard, MLflow or Weights & Biases; each imported when it is asked for.

A hook is any ``(values by name, step) -> anything``: a list's ``append``, ``print``, a logger of your own.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapsekit.ext import ConfigError, one_line
from collapsekit_callbacks.monitor import Log

STEP = "collapsekit/step"  # what W&B draws our numbers over


def tensorboard(folder: str | Path) -> Log:
    """Scalars in ``folder``, flushed after every measurement. Raises ConfigError where TensorBoard is not installed."""
    writer = _module("torch.utils.tensorboard", "TensorBoard", "tensorboard").SummaryWriter(str(folder))

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log


def mlflow() -> Log:
    """Metrics of MLflow's active run, which MLflow starts where there is none. Characters that MLflow refuses in a name
    become ``_``. Raises ConfigError where MLflow is not installed."""
    module = _module("mlflow", "MLflow", "mlflow")

    def log(values: Mapping[str, float], step: int) -> None:
        module.log_metrics({re.sub(r"[^\w\-. /]", "_", k): v for k, v in values.items()}, step=step)

    return log


def wandb(run: Any = None) -> Log:
    """Metrics of ``run`` (default: the active run), drawn over ``collapsekit/step`` so that the run's own counter, which
    only ever grows by its own calls, is left alone. Raises ConfigError where W&B is not installed or no run is active."""
    found = run if run is not None else _module("wandb", "Weights & Biases", "wandb").run
    if found is None:
        raise ConfigError("no Weights & Biases run is active: call wandb.init(...) first, or give the run.")
    found.define_metric(STEP, hidden=True)
    found.define_metric("collapsekit/*", step_metric=STEP)

    def log(values: Mapping[str, float], step: int) -> None:
        found.log({**values, STEP: step})

    return log


def _module(name: str, product: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(
            f"logging to {product} needs it, and it cannot be imported ({one_line(e)}): "
            f"pip install 'collapsekit-callbacks[{extra}]'."
        ) from None
