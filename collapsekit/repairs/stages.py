"""What a repair consists of, in its order, for whoever shows how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from collapsekit.adapters.base import Adapter
from collapsekit.config.options import RepairOptions
from collapsekit.context import Progress

BEFORE, SHOWN = "diagnosis on val", "diagnosis before"
TRAINING = {"method": "training", "control": "training of the control"}
DECIDED, AFTER, CONTROL = "diagnosis that decides", "diagnosis after", "diagnosis of the control"
# Seconds, until the first diagnosis is reckoned, at whose pace the others then are: shares that were measured on the demo
# (python -m benchmarks.progress). A later diagnosis finds much of what the first one made.
_SHARES = {BEFORE: 10.0, SHOWN: 10.0, DECIDED: 5.0, AFTER: 8.0, CONTROL: 8.0}
_EPOCH = 5e-4  # seconds of a training example and an epoch of a method
_CONTROL = 0.25  # of that: plain fine-tuning, which usually stops early
_ENOUGH = 0.7  # of the epochs, after which training usually stops early


def plan(progress: Progress, options: RepairOptions, methods: Sequence[str] | None, adapter: Adapter) -> None:
    """Tell of the stages of a repair.

    Args:
        progress: Whom.
        options: What was asked for.
        methods: Names of the methods; None: one that the diagnosis recommends.
        adapter: The model, with its data.
    """
    epoch = _EPOCH * (options.limit or adapter.source.length("train") or 1000)
    training = epoch * _ENOUGH * options.training.epochs
    seconds = {**_SHARES, TRAINING["method"]: training * max(1, len(methods or ()))}
    seconds[TRAINING["control"]] = training * _CONTROL
    order = [BEFORE, SHOWN, TRAINING["method"], TRAINING["control"], DECIDED, AFTER, CONTROL]
    if not options.control or tuple(methods or ()) == ("finetune",):
        order = [name for name in order if name not in (TRAINING["control"], CONTROL)]
    progress.plan({name: seconds[name] for name in order})
