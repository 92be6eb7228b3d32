"""A model at hand and data in memory, and the config that is written after one batch of it ran."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from collapsekit import registry
from collapsekit.autoconfig.running.observe import Observed, observe
from collapsekit.autoconfig.running.runner import Ground
from collapsekit.autoconfig.running.text import Named
from collapsekit.autoconfig.running.verify import Verified, verify_text
from collapsekit.autoconfig.running.write import WrittenConfig, settle
from collapsekit.checkpoint.sidecars.described import Described
from collapsekit.config.load import check_config
from collapsekit.config.schema import Config
from collapsekit.data.factory import batch_form
from collapsekit.data.memory import MemorySource
from collapsekit.io.yaml import parse_yaml


def ground_of(model: nn.Module, data: Mapping[str, Any]) -> Ground:
    return Ground(model.eval(), MemorySource(data), check_config({}, base=Path()))


def observed_of(model: nn.Module, data: Mapping[str, Any], beside: Described | None = None) -> Observed:
    return observe(ground_of(model, data), beside)


def config_in(text: str) -> Config:
    return check_config(parse_yaml(text, "config"), base=Path())


def written_for(model: nn.Module, data: Mapping[str, Any], beside: Described | None = None) -> WrittenConfig:
    registry.load_builtins()

    def verify(text: str) -> Verified:
        return verify_text(text, Path(), None, model=model, source=MemorySource(data, batch_form(config_in(text))))

    named = Named("model:build", {}, None, None, "data:loaders")
    return settle(observed_of(model, data, beside), named, beside, verify)
