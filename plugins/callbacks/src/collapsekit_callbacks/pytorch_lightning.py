"""The callback for trainers of the package `pytorch_lightning`; collapsekit_callbacks.lightning has the other."""

from __future__ import annotations

from pytorch_lightning.callbacks import Callback

from collapsekit_callbacks.fitting import MonitorHooks, WatchHooks


class CollapseMonitor(MonitorHooks, Callback):
    """A Monitor in ``Trainer(callbacks=[CollapseMonitor(batch, config, every=100)])``; see ``MonitorHooks``."""


class PipelineWatch(WatchHooks, Callback):
    """A Watch in ``Trainer(callbacks=[PipelineWatch({"image": "image"}, label="label", loss=...)])``; see ``WatchHooks``."""
