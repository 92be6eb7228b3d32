"""MONAI bundles: configs/metadata.json says which images go in, what each channel of them is, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from collapsekit.checkpoint.sidecars.described import Described, fields_of, mapping, sizes, text
from collapsekit.checkpoint.sidecars.document import read_document


def read_monai(folder: Path) -> Described | None:
    """Read a bundle's metadata.json, in ``folder`` or its ``configs``; None where it is another's."""
    about = read_document(folder / "configs" / "metadata.json") or read_document(folder / "metadata.json") or {}
    layout = mapping(about.get("network_data_format"))
    inputs = {k: v for k, v in mapping(layout.get("inputs")).items() if isinstance(v, dict)}
    if not inputs:
        return None
    outputs = {k: v for k, v in mapping(layout.get("outputs")).items() if isinstance(v, dict)}
    kinds = {text(v.get("format")).lower() for v in outputs.values()}
    dense = "segmentation" in kinds or any(text(v.get("type")) == "image" for v in outputs.values())
    sentences = [f"its input {text(k)}: {_in_words(v)}" for k, v in inputs.items()]
    sentences += [f"its output {text(k)}: {_in_words(v)}" for k, v in outputs.items()]
    name = " ".join(filter(None, ["MONAI bundle", text(about.get("name")), text(about.get("version"), 20)]))
    return Described(
        name,
        tuple(sentences),
        fields_of(_modalities(inputs)),
        "dense" if dense else "classification",
        "label",
        "positional",
        ("from monai.bundle import ConfigParser", *_CODE),
    )


_CODE = (
    "def build(config):  # kwargs: {config: configs/inference.json}",
    "    parser = ConfigParser()",
    "    parser.read_config(config)",
    '    return parser.get_parsed_content("network_def")',
)


def _modalities(inputs: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, str, str | None, str]]:
    for key, about in inputs.items():
        channels = mapping(about.get("channel_def"))
        if len(channels) < 2:
            yield key, key, None, _in_words(about)
            continue
        for number, name in channels.items():
            at = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 0
            yield text(name) or f"{key}{at}", key, f"[{at}]", f"channel {at} of {key}"


def _in_words(about: Mapping[str, Any]) -> str:
    channels = text(about.get("num_channels"))
    parts = [
        text(about.get("modality")),
        text(about.get("format")),
        f"{channels} channels" if channels else "",
        sizes(about.get("spatial_shape")),
        text(about.get("dtype")),
    ]
    limits = about.get("value_range")
    parts.append(f"values {' to '.join(map(text, limits[:2]))}" if isinstance(limits, list) and limits else "")
    return ", ".join(filter(None, parts))
