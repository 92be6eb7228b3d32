"""What `collapsekit init` finds in each family by running one batch of it: fields, encoders, fusion, task.

python -m benchmarks.families.proposals

Right is what the family's own YAML says. An encoder is also right where the YAML leaves the modality at the input, and an
exchange behind the encoder gives what it gives there; a fusion also where the YAML names none, and it is the first layer of
the network that reads both. What is left to the user, with the question, is counted apart from what is wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.families.family import Family, World
from benchmarks.families.zoo import ZOO
from collapsekit import registry
from collapsekit.autoconfig.running.observe import observe
from collapsekit.autoconfig.running.runner import Ground
from collapsekit.autoconfig.running.text import Named
from collapsekit.autoconfig.running.verify import Verified, verify_text
from collapsekit.autoconfig.running.write import WrittenConfig, settle
from collapsekit.config.load import check_config
from collapsekit.config.schema import Config, ModalityConfig
from collapsekit.data.factory import batch_form
from collapsekit.data.memory import MemorySource
from collapsekit.io.yaml import parse_yaml

FEW = {"train": 80, "val": 40, "test": 60}
MIXERS = {"head.net.0", "layer"}  # the layers that first read both, where the YAML names none
ASPECTS = ("fields", "encoders", "fusion", "task")
# Where another answer than the YAML's is right as well: the collate_fn's fields may be exchanged in batches.
FIELDS = {"collated of examples": {("vector",), ("ids",)}}


@dataclass(frozen=True)
class Found:
    """What is right, wrong or left to the user, by aspect, and whether the config ran as it was written."""

    aspects: Mapping[str, str]
    runs: bool


def propose_for(family: Family, seed: int = 0) -> WrittenConfig:
    """Make an untrained model of a family and its data, and let the config be written."""
    torch.manual_seed(seed)
    model = family.model().eval()
    data = {s: family.hand_over(family.data(World.sample(n, 10 * seed + i))) for i, (s, n) in enumerate(FEW.items())}
    ground = Ground(model, MemorySource(data), check_config({}, base=Path()))
    named = Named("model:build", {}, None, None, "data:loaders")

    def verify(text: str) -> Verified:
        source = MemorySource(data, batch_form(check_config(parse_yaml(text, "config"), base=Path())))
        return verify_text(text, Path(), None, model=model, source=source)

    return settle(observe(ground), named, None, verify)


def judge(family: Family, written: WrittenConfig) -> Found:
    """Hold what was written against the family's own YAML."""
    truth = check_config(family.config, base=Path())
    config = check_config(parse_yaml(written.text, "config"), base=Path())
    whole = len(config.modalities) > 1
    mixes = config.fusion == truth.fusion or (truth.fusion is None and config.fusion in MIXERS)
    aspects = {
        "fields": _said(_fields(config) == FIELDS.get(family.name, _fields(truth)), open_=not whole),
        "encoders": _said(_encoders_fit(config, truth, written), open_=not whole),
        "fusion": _said(mixes, open_=not whole),
        "task": _said(config.task == truth.task, open_=written.observed.outcome.task is None),
    }
    return Found(aspects, written.verified.refused is None)


def _said(right: bool, *, open_: bool) -> str:
    return "asked" if open_ else "right" if right else "wrong"


def _field_of(name: str, section: ModalityConfig) -> tuple[str, ...]:
    keys = section.input if section.input is not None else name
    parts = (keys,) if isinstance(keys, str) else tuple(keys)
    return (*parts, *(p for p in (section.slice, section.where) if p is not None))


def _fields(config: Config) -> set[tuple[str, ...]]:
    return {_field_of(name, section) for name, section in config.modalities.items()}


def _encoders_fit(config: Config, truth: Config, written: WrittenConfig) -> bool:
    wanted = {_field_of(m, s): s.encoder for m, s in truth.modalities.items()}
    return all(
        s.encoder == wanted.get(_field_of(m, s))
        or (wanted.get(_field_of(m, s)) is None and written.observed.tried.get(m, False))
        for m, s in config.modalities.items()
    )


def table(found: Mapping[str, Found]) -> str:
    """Markdown: a row a family."""
    lines = [f"| family | {' | '.join(ASPECTS)} | runs as written |", f"|{'---|' * (len(ASPECTS) + 2)}"]
    for name, one in found.items():
        lines.append(f"| {name} | {' | '.join(one.aspects[a] for a in ASPECTS)} | {'yes' if one.runs else 'asked'} |")
    count = len(found)
    counts = [sum(one.aspects[a] == "right" for one in found.values()) for a in ASPECTS]
    runs = sum(one.runs for one in found.values())
    return "\n".join([*lines, f"| right | {' | '.join(f'{c} of {count}' for c in counts)} | {runs} of {count} |"])


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    registry.load_builtins()
    print(table({name: judge(family, propose_for(family)) for name, family in ZOO.items()}))


if __name__ == "__main__":
    main()
