"""Run by test_transformers_plugin.py in a process of its own: tiny models of transformers, made, saved as
save_pretrained saves them, and diagnosed with nothing but the plugin's name in the config.

Usage: tiny_transformers.py FOLDER, which gets the models and ``found.json``, all that the tests look at.
"""

from __future__ import annotations

import copy
import importlib
import json
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import registry
from collapsekit.config.load import load_config
from collapsekit.config.schema import Config
from collapsekit.diagnosis import diagnose
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.interventions.replay import predict
from collapsekit.readouts import synergy as joint
from collapsekit.session.opening import build_adapter

SPLITS = {"train": 192, "val": 96, "test": 128}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = {"vocab_size": 24, "max_position_embeddings": 8}
PIXELS = {"image_size": 16, "patch_size": 8}
TEXT = ("input_ids", "attention_mask")
IMAGE = ("pixel_values", "pixel_mask")
REGIONS = ("visual_embeds", "visual_attention_mask")
YAML = "adapter: transformers\nmodel: {checkpoint: model.safetensors}\ndata: {path: data.safetensors}\n"
QUICK: dict[str, dict[str, Any]] = {"prefix_gap": {"rates": (1e-2,), "epochs": 15}, "reliance": {"draws": 8}}
FOUND: dict[str, Any] = {}


def no_network(*_: object) -> None:
    raise AssertionError("something wanted the network")


def examples(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """Four attributes of four values, said by word 1 to 4 and shown by patch 1 to 4; the label is the first, which all
    regions show. Some texts and images are shorter than others."""
    attribute = torch.randint(0, 4, (n, 4), generator=g)
    ids = torch.zeros(n, 6, dtype=torch.long)
    ids[:, 0], ids[:, 1:5], ids[:, 5] = 1, 3 + attribute + 4 * torch.arange(4), 2
    words = torch.ones_like(ids)
    short = torch.rand(n, generator=g) < 0.3
    ids[short, 4], ids[short, 5], words[short, 5] = 2, 0, 0
    colour = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])[attribute]  # n patch channel
    maps = colour.transpose(1, 2).reshape(n, 3, 2, 2)
    pixels = F.interpolate(maps, size=(16, 16)) + 0.3 * torch.randn(n, 3, 16, 16, generator=g)
    seen = torch.ones(n, 16, 16, dtype=torch.long)
    seen[torch.rand(n, generator=g) < 0.3, :, 8:] = 0
    regions = F.one_hot(attribute[:, :1], 4).repeat(1, 4, 2) + 0.3 * torch.randn(n, 4, 8, generator=g)
    there = torch.ones(n, 4, dtype=torch.long)
    there[torch.rand(n, generator=g) < 0.3, 2:] = 0
    return {
        "label": attribute[:, 0],
        "binary": attribute[:, 0] % 2,
        "input_ids": ids,
        "attention_mask": words,
        "pixel_values": pixels * seen[:, None],
        "pixel_mask": seen,
        "visual_embeds": regions * there[..., None],
        "visual_attention_mask": there,
    }


def classified(output: Any, label: Tensor) -> Tensor:
    return F.cross_entropy(output.logits, label)


def paired(output: Any, label: Tensor) -> Tensor:
    similar, index = output.logits_per_text, torch.arange(len(label))
    return (F.cross_entropy(similar, index) + F.cross_entropy(similar.T, index)) / 2


def train(
    model: nn.Module,
    data: dict[str, Tensor],
    keys: tuple[str, ...],
    loss_of: Callable[[Any, Tensor], Tensor],
    *,
    silent: str | None = None,
    steps: int = 60,
) -> None:
    """``silent`` names the encoder whose output is made a thousandth, so that the model has to ignore it."""
    for name, parameter in model.named_parameters():
        if silent is not None and silent in name:
            parameter.data.mul_(1e-3)
            parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for _ in range(steps):
        rows = torch.randint(0, len(data["label"]), (64,))
        loss = loss_of(model(**{k: data[k][rows] for k in keys}), data["label"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(True)


def save(model: Any, folder: Path, data: dict[str, dict[str, Tensor]], keys: tuple[str, ...]) -> Path:
    model.save_pretrained(folder)
    columns = {f"{s}/{k}": v[k].contiguous() for s, v in data.items() for k in (*keys, "label", "binary")}
    save_file(columns, folder / "data.safetensors")
    (folder / "collapsekit.yaml").write_text(YAML)
    return folder / "collapsekit.yaml"


def whole_run(name: str, config: Path) -> None:
    report = diagnose(config=config, options=QUICK, cache=config.parent / "cache")
    FOUND[name] = {
        "verdicts": {m: v.verdict for m, v in report.modalities.items()},
        "task": report.subject.task,
        "values": {f"{r.name} {r.modality}": r.value for r in report.results if r.value is not None},
        "skipped": {f"{r.name} {r.modality}": r.skipped for r in report.results if r.skipped is not None},
    }


def swapped_as_the_model_would(name: str, config: Path, model: Any, outputs: Callable[[Any], Tensor]) -> None:
    """By modality, relative to the outputs' size: how far a replayed swap is from the model's own forward on
    swapped inputs, and how much the swap changes."""
    adapter: Any = build_adapter(load_config(config), None)
    features = extract(adapter, "test")
    other = torch.randperm(len(features), generator=torch.Generator().manual_seed(3))
    different, changed = {}, {}
    for modality in adapter.modalities:
        inputs = {k: v[other] if k in adapter.input_keys(modality) else v for k, v in features.inputs.items()}
        with torch.no_grad():
            expected = outputs(model(**inputs))
        got = predict(adapter, features, swap={modality: other}).outputs
        different[modality] = float((got - expected).abs().max() / expected.abs().max())
        changed[modality] = float((got - features.outputs).abs().max() / expected.abs().max())
    FOUND[name] |= {"swap is off by": different, "swap changes": changed}
    FOUND[name]["keys"] = {m: adapter.input_keys(m) for m in adapter.modalities}


def plugin_is_found_by_name_alone() -> None:
    points = [p.name for p in registry.installed_plugins()]
    FOUND["listed"] = points
    FOUND["imported by listing"] = [m for m in ("transformers", "collapsekit_transformers") if m in sys.modules]
    registry.get_adapter("transformers")
    FOUND["imported by loading"] = [m for m in ("transformers",) if m in sys.modules]


def vilt(folder: Path, data: dict[str, dict[str, Tensor]]) -> None:
    hub = importlib.import_module("transformers")

    model = hub.ViltForQuestionAnswering(hub.ViltConfig(**SMALL, **WORDS, **PIXELS, num_labels=4))
    train(model, data["train"], (*TEXT, *IMAGE), classified, silent="patch_embeddings", steps=150)
    config = save(model, folder / "vilt", data, (*TEXT, *IMAGE))
    # As old or hostile files have it: constants among the weights, and settings that would fetch or halve.
    weights = load_file(folder / "vilt" / "model.safetensors")
    weights["vilt.embeddings.text_embeddings.position_ids"] = torch.arange(8)[None]
    save_file(weights, folder / "vilt" / "model.safetensors")
    raw = json.loads((folder / "vilt" / "config.json").read_text())
    raw |= {
        "attn_implementation": "kernels-community/flash-attn",
        "_attn_implementation": "kernels-community/flash-attn",
        "auto_map": {"AutoModel": "stranger/repo--modeling.Evil"},
        "dtype": "float16",
        "return_dict": False,
    }
    (folder / "vilt" / "config.json").write_text(json.dumps(raw))
    for name in ("transformers", "collapsekit_transformers", "torchvision"):
        (folder / "vilt" / f"{name}.py").write_text("raise SystemExit('a file beside the config ran')")
    whole_run("vilt", config)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    live = diagnose(config=load_config(config), model=model, options=QUICK, probes=["reliance", "prefix_gap"])
    FOUND["vilt"]["live"] = {f"{r.name} {r.modality}": r.value for r in live.results if r.value is not None}
    FOUND["vilt"]["live kept"] = all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    adapter: Any = build_adapter(load_config(config), None)
    batch = {k: data["test"][k] for k in (*TEXT, *IMAGE)}
    with torch.no_grad():
        image, text = (adapter.run(batch).pooled[m] for m in ("image", "text"))
        patches = model.vilt.embeddings.patch_embeddings(batch["pixel_values"]).flatten(2)
        words = model.vilt.embeddings.text_embeddings(batch["input_ids"])
    keep = batch["pixel_mask"][:, ::8, ::8].flatten(1)
    expected = (patches * keep[:, None]).sum(2) / keep.sum(1, keepdim=True)
    FOUND["vilt"]["pooled image"] = float((image - expected).abs().max() / expected.abs().max())
    mask = batch["attention_mask"][..., None]
    FOUND["vilt"]["pooled text"] = float((text - (words * mask).sum(1) / mask.sum(1)).abs().max())


def loud_vilt(folder: Path, data: dict[str, dict[str, Tensor]]) -> None:
    """Untrained, with weights so large that both modalities move its outputs."""
    hub = importlib.import_module("transformers")

    settings = hub.ViltConfig(**SMALL, **WORDS, **PIXELS, num_labels=4, initializer_range=0.5)
    model = hub.ViltForQuestionAnswering(settings).eval()
    config = save(model, folder / "loud_vilt", data, (*TEXT, *IMAGE))
    FOUND["loud_vilt"] = {}
    swapped_as_the_model_would("loud_vilt", config, model, lambda o: o.logits)


def visual_bert(folder: Path, data: dict[str, dict[str, Tensor]]) -> None:
    hub = importlib.import_module("transformers")

    model = hub.VisualBertForQuestionAnswering(
        hub.VisualBertConfig(**SMALL, **WORDS, visual_embedding_dim=8, num_labels=4)
    )
    train(model, data["train"], (*TEXT, *REGIONS), classified, silent="word_embeddings", steps=120)
    config = save(model, folder / "visual_bert", data, (*TEXT, *REGIONS))
    whole_run("visual_bert", config)
    swapped_as_the_model_would("visual_bert", config, model, lambda o: o.logits)


def clip(folder: Path, data: dict[str, dict[str, Tensor]]) -> None:
    hub = importlib.import_module("transformers")

    text = {**SMALL, **WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = hub.CLIPModel(hub.CLIPConfig(text_config=text, vision_config={**SMALL, **PIXELS}, projection_dim=8))
    keys = (*TEXT, "pixel_values")
    train(model, data["train"], keys, paired, steps=120)
    config = save(model, folder / "clip", data, keys)
    whole_run("clip", config)
    swapped_as_the_model_would("clip", config, model, lambda o: torch.cat([o.text_embeds, o.image_embeds], 1))
    adapter: Any = build_adapter(load_config(config), None)
    features, runs = extract(adapter, "test"), list[int]()
    towers = [adapter.model.get_submodule(t) for t in ("text_model.encoder", "vision_model.encoder")]
    for tower in towers:
        tower.register_forward_hook(lambda *_: runs.append(1))
    predict(adapter, features)
    FOUND["clip"]["towers run by replay"] = len(runs)
    adapter.run(features.inputs)
    FOUND["clip"]["towers run by a pass"] = len(runs)
    FOUND["clip"]["temperature"] = [adapter.task.temperature, float(model.logit_scale.detach().exp())]
    FOUND["clip"]["fusion parameters"] = [tuple(p.shape) for p in adapter.fusion_parameters()]
    twins = [adapter.fresh(seed).model.text_projection.weight for seed in (1, 1, 2)]
    FOUND["clip"]["fresh"] = [torch.equal(twins[0], twins[1]), torch.equal(twins[0], twins[2])]


def the_other_classes(folder: Path, data: dict[str, dict[str, Tensor]]) -> None:
    """Untrained: what extract checks (replaying and rebuilding give the model's own outputs) is the test."""
    hub = importlib.import_module("transformers")

    made = {
        "ViltForImageAndTextRetrieval": ({**PIXELS}, IMAGE),
        "ViltForImagesAndTextClassification": ({**PIXELS, "num_images": 1, "num_labels": 2}, IMAGE[:1]),
        "VisualBertForVisualReasoning": ({"visual_embedding_dim": 8, "num_labels": 2}, REGIONS),
    }
    for name, (more, keys) in made.items():
        kind = "ViltConfig" if name.startswith("Vilt") else "VisualBertConfig"
        model = getattr(hub, name)(getattr(hub, kind)(**SMALL, **WORDS, **more))
        config = save(model, folder / name, data, (*TEXT, *keys))
        config.write_text(YAML.replace("data: {", "data: {label: binary, "))
        features = extract(build_adapter(load_config(config), None), "test")
        FOUND[name] = {m: list(x.shape) for m, x in features.pooled.items()}


def first_run_within_a_diagnosis() -> None:
    """A live LLaVA, which makes hooks in its first forward and notes in an attribute that it has them."""
    hub = importlib.import_module("transformers")
    vision = hub.CLIPVisionConfig(**SMALL, image_size=16, patch_size=8, projection_dim=16)
    words = hub.LlamaConfig(**SMALL, vocab_size=24, max_position_embeddings=16, num_key_value_heads=2)
    more = {"image_token_index": 23, "image_seq_length": 4, "vision_feature_layer": -1}
    model = hub.LlavaForConditionalGeneration(hub.LlavaConfig(vision_config=vision, text_config=words, **more)).eval()
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (24, 8), generator=g)
    ids[:, 1:5] = 23
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    rows |= {"pixel_values": torch.randn(24, 3, 16, 16, generator=g), "label": torch.arange(24) % 3}
    modalities = {
        "text": {"encoder": "model.language_model.embed_tokens", "input": list(TEXT)},
        "image": {"encoder": "model.multi_modal_projector", "input": "pixel_values"},
    }
    said = {"modalities": modalities, "fusion": "model.language_model.norm", "output": "logits", "task": "last:nll"}
    task = types.ModuleType("last")
    task.nll = lambda outputs, targets: F.cross_entropy(outputs[:, -1], targets, reduction="none")  # type: ignore[attr-defined]
    sys.modules["last"] = task
    given = {k: v for k, v in rows.items() if k != "label"}
    untouched = copy.deepcopy(model)
    before = [sorted(vars(m)) for m in model.modules()]
    report = diagnose(model=model, data={"test": rows}, config=said, profile="quick", probes=["reliance"])
    with torch.no_grad():
        FOUND["first run"] = {
            "attributes": [sorted(vars(m)) for m in model.modules()] == before,
            "off by": float((model(**given).logits - untouched(**given).logits).abs().max()),
            "warnings": [w.name for w in report.warnings],
        }


def refusals(folder: Path) -> None:
    def refused(name: str, where: str, change: dict[str, Any] | None = None, **said: Any) -> None:
        base = folder / where
        raw = json.loads((base / "config.json").read_text()) | (change or {})
        (base / "changed.json").write_text(json.dumps(raw))
        given = {"adapter": "transformers", "model": {"checkpoint": "model.safetensors"}}
        given |= {"data": {"path": "data.safetensors"}, "options": {"config": "changed.json"}} | said
        try:
            build_adapter(Config.model_validate({**given, "base": base}), None)
        except ConfigError as e:
            FOUND["refused"][name] = str(e)

    FOUND["refused"] = {}
    refused("near", "vilt", options={"architecture": "ViltForQuestionAnswerin"})
    refused("far", "vilt", {"architectures": ["GPT2LMHeadModel"]})
    refused("unnamed", "vilt", {"architectures": None})
    refused("another type", "vilt", options={"architecture": "CLIPModel"})
    refused("no file", "vilt", options={"config": "missing.json"})
    refused("option", "vilt", options={"architectur": "CLIPModel"})
    refused("value", "vilt", {"hidden_size": "wide"})
    refused("random patches", "vilt", {"max_image_length": 3})
    refused("two images", "ViltForImagesAndTextClassification", {"num_images": 2})
    refused("modality", "vilt", modalities={"imag": None})
    refused("encoder", "vilt", modalities={"image": "vilt.embeddings"})
    refused("factory", "vilt", model={"checkpoint": "model.safetensors", "factory": "mine:build"})
    refused("fusion", "clip", fusion="text_projection")
    refused("task", "clip", task="classification")


def what_the_user_says_stays(folder: Path) -> None:
    source = 'def build():\n    row = {"input_ids": 1, "attention_mask": 1, "pixel_values": 1, "label": 1}\n'
    source += '    return {"train": [row], "test": [row]}\n'
    (folder / "vilt" / "own_data.py").write_text(source)
    said = {"image": {"scale": 255, "pool": "flatten"}, "text": {"input": "input_ids"}}
    given = {"adapter": "transformers", "model": {"checkpoint": "model.safetensors"}, "modalities": said}
    config = Config.model_validate({**given, "data": {"factory": "own_data:build"}, "base": folder / "vilt"})
    made = build_adapter(config, None).config.modalities
    FOUND["said"] = {m: s.model_dump(mode="json") for m, s in made.items()}


def main(folder: Path) -> None:
    socket.socket.connect = no_network  # type: ignore[method-assign]
    torch.set_num_threads(1)
    joint.EPOCHS, joint.STEPS = 10, 1  # how well it learns what modalities say together is tested elsewhere
    g = torch.Generator().manual_seed(1)
    data = {split: examples(n, g) for split, n in SPLITS.items()}
    plugin_is_found_by_name_alone()
    for part in (vilt, loud_vilt, visual_bert, clip, the_other_classes):
        torch.manual_seed(0)
        part(folder, data)
    torch.manual_seed(0)
    first_run_within_a_diagnosis()
    refusals(folder)
    what_the_user_says_stays(folder)
    (folder / "found.json").write_text(json.dumps(FOUND))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
