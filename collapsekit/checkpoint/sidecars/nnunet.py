"""nnU-Net's results: dataset.json names the channels and labels, plans.json how images are cut and scaled."""

from __future__ import annotations

from pathlib import Path

from collapsekit.checkpoint.sidecars.described import Described, fields_of, mapping, sizes, text
from collapsekit.checkpoint.sidecars.document import read_document


def read_nnunet(folder: Path) -> Described | None:
    """Read dataset.json, and plans.json where it is there; None where they are another's.

    ``folder`` is where they lie, above that of a fold.
    """
    dataset = read_document(folder / "dataset.json") or {}
    channels = mapping(dataset.get("channel_names")) or mapping(dataset.get("modality"))
    if not channels or not mapping(dataset.get("labels")):
        return None
    plans = read_document(folder / "plans.json") or {}
    sentences = [f"its labels: {', '.join(text(name) for name in mapping(dataset['labels']))}"]
    for name, about in mapping(plans.get("configurations")).items():
        about = mapping(about)
        schemes = about.get("normalization_schemes")
        scaled = ", ".join(text(s) for s in schemes[:10]) if isinstance(schemes, list) else ""
        cut = sizes(about.get("patch_size"))
        if cut:
            sentences.append(
                f"configuration {text(name)}: patches of {cut}" + (f", scaled by {scaled}" if scaled else "")
            )
    title = text(plans.get("dataset_name")) or text(dataset.get("name"))
    stacked = len(channels) > 1
    fields = (
        (text(name), "image", f"[{i}]" if stacked else None, f"channel {i} of the stacked image" if stacked else "")
        for i, name in enumerate(channels.values())
    )
    return Described(
        f"nnU-Net {title}".strip(), tuple(sentences), fields_of(fields), "dense", "label", "positional", _CODE
    )


_CODE = (
    "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor",
    "def build(folder, fold=0):  # the network, without its sliding window",
    "    predictor = nnUNetPredictor()",
    '    predictor.initialize_from_trained_model_folder(folder, (fold,), "checkpoint_final.pth")',
    "    return predictor.network",
)
