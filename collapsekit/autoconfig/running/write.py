"""A whole config from a factory, a checkpoint and data: the model is run, and the config verified as it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from collapsekit.adapters.build import build_model, to_eval
from collapsekit.adapters.live.unwrap import unwrapped
from collapsekit.adapters.weights.load import load_weights
from collapsekit.autoconfig.running.observe import Observed, observe
from collapsekit.autoconfig.running.runner import Ground, keys_of
from collapsekit.autoconfig.running.text import Named, observed_text
from collapsekit.autoconfig.running.verify import Verified, verify_text
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.checkpoint.sidecars.described import Described
from collapsekit.config.imports import import_callable
from collapsekit.config.load import check_config
from collapsekit.config.schema import Config
from collapsekit.data.factory import make_source
from collapsekit.errors import ConfigError

SAMPLES = 8  # seeds that answers of a model are averaged over that draws random numbers


@dataclass(frozen=True)
class WrittenConfig:
    """The text of a config, what was observed, and what was verified."""

    text: str
    observed: Observed
    verified: Verified


def check_named(named: Named, base: Path) -> Config:
    """Check what a user named, before anything is read or built.

    Args:
        named: the factory and the data.
        base: the folder that the config will lie in.

    Returns:
        A config of these.

    Raises:
        ConfigError: where there is no such function, or no such file.
    """
    data = {"path": named.data_path} if named.data_path is not None else {"factory": named.data_factory}
    raw = {"model": {"factory": named.factory, "kwargs": named.kwargs}, "data": data}
    config = check_config(raw, base=base, origin="the command line")
    import_callable(named.factory, base, "--factory")
    if named.data_factory is not None:
        import_callable(named.data_factory, base, "--data")
    elif not (path := config.resolve(str(named.data_path))).is_file():
        raise ConfigError(
            f"--data {path} is not a file: give a .safetensors, .npz or .pt file, or MODULE:CALLABLE, a function of loaders."
        )
    return config


def open_ground(config: Config, checkpoint: Checkpoint) -> Ground:
    """Build a model with a checkpoint's weights, and open its data.

    Args:
        config: of the factory and the data.
        checkpoint: the weights.

    Returns:
        The model, in eval mode, and the data.

    Raises:
        CollapsekitError: where either cannot be had, or the weights do not fit.
    """
    model = unwrapped(build_model(config, 0))
    load_weights(model, checkpoint)
    to_eval(model, torch.device("cpu"))
    return Ground(model, make_source(config), config)


def write_observed(
    named: Named, base: Path, checkpoint: Checkpoint, beside: Described | None, trust: str | None
) -> WrittenConfig:
    """Run a model on a batch, and write the config that follows.

    Args:
        named: factory, checkpoint and data, as the config calls them.
        base: the folder that the config will lie in.
        checkpoint: the weights.
        beside: what files beside them say.
        trust: "sha256:DIGEST" lets the checkpoint be unpickled again.

    Returns:
        The config, and what is to be told of it.

    Raises:
        CollapsekitError: where model or data cannot be had, or the model answers no call.
    """
    observed = observe(open_ground(check_named(named, base), checkpoint), beside)
    return settle(observed, named, beside, lambda text: verify_text(text, base, checkpoint.path, trust=trust))


def settle(
    observed: Observed, named: Named, beside: Described | None, verify: Callable[[str], Verified]
) -> WrittenConfig:
    """Write a config and verify it; encoders of fields of several sizes that do not hold are left out.

    Args:
        observed: what one batch told.
        named: what the user named.
        beside: what files beside the weights say.
        verify: takes the text of a config.

    Returns:
        The config, and what is to be told of it.
    """
    if (why := _unready(observed)) is not None:
        return WrittenConfig(
            observed_text(observed, named, beside, Verified(refused=why)), observed, Verified(refused=why)
        )
    verified = verify(observed_text(observed, named, beside))
    if verified.samples:
        observed = replace(observed, samples=SAMPLES)
        verified = verify(observed_text(observed, named, beside))
    loose = [
        name
        for name, section in observed.sections.items()
        if section.encoder is not None and not set(keys_of(name, section)).isdisjoint(verified.ragged)
    ]
    if verified.refused is not None and loose:
        sections = {
            m: s.model_copy(update={"encoder": None}) if m in loose else s for m, s in observed.sections.items()
        }
        note = f"Of several sizes or missing in some examples, and so exchanged at the input: {', '.join(loose)}."
        fewer = replace(observed, sections=sections, notes=(*observed.notes, note))
        again = verify(observed_text(fewer, named, beside))
        if again.refused is None:
            observed, verified = fewer, again
    return WrittenConfig(observed_text(observed, named, beside, verified), observed, verified)


def _unready(observed: Observed) -> str | None:
    """Why a config has to be filled in before it can be opened; None where it is whole."""
    if len(observed.sections) < 2:
        return f"a diagnosis needs two modalities, and this config names {len(observed.sections)}: see FILL IN."
    if observed.outcome.task is None:
        return "the task is open: see FILL IN."
    return None
