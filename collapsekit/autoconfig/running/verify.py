"""A config, as it is written, opened and run on a few examples before anybody relies on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from collapsekit.autoconfig.running.fields import choose_split
from collapsekit.config.load import check_config
from collapsekit.config.options import DiagnoseOptions
from collapsekit.config.schema import Config
from collapsekit.data.base import Source
from collapsekit.errors import CollapsekitError, SamplingError
from collapsekit.features.extraction import Extraction
from collapsekit.io.yaml import parse_yaml
from collapsekit.session.opening import open_model

EXAMPLES = 64
_BATCH = 5  # a few: of ragged examples the longest are not in every batch


@dataclass(frozen=True)
class Verified:
    """What held of a config, what a report would warn of, and why it was refused, where it was."""

    holds: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: str | None = None
    samples: bool = False  # whether it was as the model draws random numbers
    ragged: tuple[str, ...] = ()  # where it was, fields of several sizes, or None in some examples


def verify_text(
    text: str,
    base: Path,
    checkpoint: Path | None,
    *,
    model: nn.Module | None = None,
    source: Source | None = None,
    trust: str | None = None,
) -> Verified:
    """Open the model as a config says and run it on its first examples, as a diagnosis would.

    Args:
        text: the config.
        base: the folder that it will lie in.
        checkpoint: the weights; None: those the config names, or a model at hand.
        model: a module at hand instead of what the factory builds.
        source: data that are open already.
        trust: "sha256:DIGEST" lets the checkpoint be unpickled.

    Returns:
        What was verified.
    """
    try:
        config = check_config(parse_yaml(text, "the config"), base=base, origin="the config")
        return _ran(config, checkpoint, model, source, trust)
    except CollapsekitError as e:
        return Verified(refused=_refusal(e))


def _ran(
    config: Config, checkpoint: Path | None, model: nn.Module | None, source: Source | None, trust: str | None
) -> Verified:
    small = config.data.model_copy(update={"batch_size": _BATCH})  # so that several batches come together
    config = config.model_copy(update={"data": small})
    options = DiagnoseOptions.make(limit=EXAMPLES, trust_pickle=trust)
    with open_model(config, checkpoint, options, model=model, source=source) as subject:
        adapter, passes = subject.adapter, subject.extraction
        split = choose_split(adapter.source)
        extraction = Extraction(adapter, passes.reader, storage=passes.storage, varied=False)
        try:
            with subject.measuring():
                features = extraction.features(split)
        except CollapsekitError as e:
            ragged = tuple(k for k, store in adapter.source.objects.items() if store.form != "list")
            return Verified(refused=_refusal(e), samples=isinstance(e, SamplingError), ragged=ragged)
    holds = (
        f"this config was opened as diagnose opens it, and {len(features)} examples of split {split!r} were run; answers "
        "are the same when repeated, in other batches, and with encoders answering from recordings.",
        f"task {adapter.task.name} reads the answers, and the labels where it has any.",
    )
    return Verified(holds, tuple(f"{w.name}: {w.sentence}" for w in features.warnings))


def _refusal(error: CollapsekitError) -> str:
    return f"diagnose refuses this config as it stands: {error}"
