"""Proposals from names alone, on models in the many styles people write them in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from collapsekit.autoconfig.guess import Proposal, propose
from collapsekit.autoconfig.text import config_text
from collapsekit.autoconfig.vocabulary import words
from collapsekit.config.load import check_config
from collapsekit.io.yaml import parse_yaml


class Net(nn.Module):
    """A module out of named children; forward is never called."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def mlp(*widths: int) -> nn.Sequential:
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*[layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())])


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def container() -> nn.Module:
    return Net(
        encoders=nn.ModuleDict({"image": mlp(8, 16), "audio": mlp(5, 12)}), fusion=mlp(28, 9), head=nn.Linear(9, 3)
    )


def suffixed() -> nn.Module:
    image = Net(conv1=nn.Conv2d(3, 8, 3), layer1=nn.Conv2d(8, 8, 3), fc=nn.Linear(8, 6))
    return Net(image_encoder=image, text_encoder=nn.Embedding(50, 6), mm_block=mlp(12, 6), classifier=nn.Linear(6, 4))


def audiovisual() -> nn.Module:  # the fusion module ends in the prediction, as in on-the-fly gradient modulation
    return Net(
        audio_net=mlp(4, 8),
        visual_net=mlp(6, 8),
        fusion_module=Net(fc_x=nn.Linear(8, 8), fc_y=nn.Linear(8, 8), fc_out=nn.Linear(8, 5)),
    )


def single_letters() -> nn.Module:
    return Net(enc_l=nn.LSTM(5, 7), enc_a=nn.LSTM(3, 4, bidirectional=True), enc_v=mlp(2, 4), fc=mlp(19, 8, 1))


def glued() -> nn.Module:
    return Net(imuNet=mlp(6, 8), skeletonnet=mlp(9, 8), trunk=mlp(16, 10), out=nn.Linear(10, 4))


def numbered() -> nn.Module:
    return Net(encoders=nn.ModuleList([mlp(3, 4), mlp(2, 4)]), fuse=nn.Linear(8, 8), clf=nn.Linear(8, 2))


def by_architecture() -> nn.Module:
    return Net(resnet=nn.Conv2d(3, 8, 3), bert=mlp(6, 8), fc1=nn.Linear(16, 5), fc2=nn.Linear(5, 2))


def late_concat() -> nn.Module:
    return Net(vision_backbone=mlp(6, 8), tabular_branch=mlp(4, 3), classifier=nn.Linear(11, 2))


def unknown_sibling() -> nn.Module:
    return Net(zorp_stream=mlp(4, 5), rgb_stream=mlp(4, 4), mixer=mlp(9, 4), predictor=nn.Linear(4, 1))


def auxiliary_heads() -> nn.Module:
    return Net(
        audio_enc=mlp(3, 4), video_enc=mlp(3, 4), cross_attn=nn.MultiheadAttention(4, 1), fc_audio=nn.Linear(4, 2),
        head=nn.Linear(4, 2), fc_video=nn.Linear(4, 2),
    )  # fmt: skip


def unnamed_middle() -> nn.Module:
    return Net(ecg_encoder=mlp(3, 4), notes_encoder=mlp(3, 4), block=nn.Linear(8, 6), last=nn.Linear(6, 2))


CASES: list[tuple[Callable[[], nn.Module], dict[str, str], str | None, str | None]] = [
    (container, {"image": "encoders.image", "audio": "encoders.audio"}, "fusion", "head"),
    (suffixed, {"image": "image_encoder", "text": "text_encoder"}, "mm_block", "classifier"),
    (
        audiovisual,
        {"audio": "audio_net", "visual": "visual_net"},
        "fusion_module.fc_out:input",
        "fusion_module.fc_out",
    ),
    (single_letters, {"l": "enc_l", "a": "enc_a", "v": "enc_v"}, "fc.0", "fc.2"),
    (glued, {"imu": "imuNet", "skeleton": "skeletonnet"}, "trunk", "out"),
    (numbered, {"modality_0": "encoders.0", "modality_1": "encoders.1"}, "fuse", "clf"),
    (by_architecture, {"image": "resnet", "text": "bert"}, "fc1", "fc2"),
    (
        late_concat,
        {"vision": "vision_backbone", "tabular": "tabular_branch"},
        "classifier:input",
        "classifier",
    ),
    (unknown_sibling, {"zorp": "zorp_stream", "rgb": "rgb_stream"}, "mixer", "predictor"),
    (auxiliary_heads, {"audio": "audio_enc", "video": "video_enc"}, "cross_attn", "head"),
    (unnamed_middle, {"ecg": "ecg_encoder", "notes": "notes_encoder"}, "block", "last"),
]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model."])
@pytest.mark.parametrize(("build", "modalities", "fusion", "head"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_styles(
    build: Callable[[], nn.Module], modalities: dict[str, str], fusion: str, head: str, prefix: str
) -> None:
    net = build()
    got = propose({prefix + name: shape for name, shape in shapes_of(net).items()})
    assert got.modalities == modalities
    assert list(got.modalities) == list(modalities)  # file order
    assert (got.fusion, got.head) == (fusion, head)
    for path in (*got.modalities.values(), fusion.removesuffix(":input"), head):
        net.get_submodule(path)  # every path proposed is a module of the model
    assert any("'model.'" in s for s in got.unsure) == (prefix == "model.")


def test_unsure_says_why() -> None:
    def unsure(build: Callable[[], nn.Module]) -> str:
        return " ".join(propose(shapes_of(build())).unsure)

    assert unsure(container) == ""
    assert "one letter" in unsure(single_letters)
    assert "only numbered" in unsure(numbered)
    assert "concatenation" in unsure(late_concat)
    assert "taken for being last" in unsure(unnamed_middle)


def spelled(*lines: str) -> dict[str, tuple[int, ...]]:
    """Lines of "name: 3 4" as name -> shape."""
    pairs = (line.split(": ") for line in lines)
    return {name: tuple(int(n) for n in dims.split()) for name, dims in pairs}


VILT_HF = spelled(
    "vilt.embeddings.cls_token: 1 1 768",
    "vilt.embeddings.position_embeddings: 1 145 768",
    "vilt.embeddings.text_embeddings.word_embeddings.weight: 30522 768",
    "vilt.embeddings.text_embeddings.position_embeddings.weight: 40 768",
    "vilt.embeddings.text_embeddings.token_type_embeddings.weight: 2 768",
    "vilt.embeddings.text_embeddings.LayerNorm.weight: 768",
    "vilt.embeddings.text_embeddings.LayerNorm.bias: 768",
    "vilt.embeddings.patch_embeddings.projection.weight: 768 3 32 32",
    "vilt.embeddings.patch_embeddings.projection.bias: 768",
    "vilt.embeddings.token_type_embeddings.weight: 2 768",
    "vilt.encoder.layer.0.attention.attention.query.weight: 768 768",
    "vilt.encoder.layer.0.attention.output.dense.weight: 768 768",
    "vilt.encoder.layer.0.intermediate.dense.weight: 3072 768",
    "vilt.encoder.layer.0.output.dense.weight: 768 3072",
    "vilt.layernorm.weight: 768",
    "vilt.pooler.dense.weight: 768 768",
    "classifier.0.weight: 1536 768",
    "classifier.1.weight: 1536",
    "classifier.3.weight: 3129 1536",
)
VILT_ORIGINAL = spelled(
    "text_embeddings.word_embeddings.weight: 30522 768",
    "text_embeddings.LayerNorm.weight: 768",
    "token_type_embeddings.weight: 2 768",
    "transformer.cls_token: 1 1 768",
    "transformer.patch_embed.proj.weight: 768 3 32 32",
    "transformer.blocks.0.attn.qkv.weight: 2304 768",
    "transformer.blocks.0.mlp.fc1.weight: 3072 768",
    "transformer.blocks.0.mlp.fc2.weight: 768 3072",
    "transformer.blocks.1.attn.qkv.weight: 2304 768",
    "transformer.norm.weight: 768",
    "pooler.dense.weight: 768 768",
    "vqa_classifier.0.weight: 1536 768",
    "vqa_classifier.3.weight: 3129 1536",
)
CLIP_HF = spelled(
    "logit_scale: ",
    "text_model.embeddings.token_embedding.weight: 49408 512",
    "text_model.encoder.layers.0.self_attn.k_proj.weight: 512 512",
    "text_model.final_layer_norm.weight: 512",
    "vision_model.embeddings.class_embedding: 768",
    "vision_model.embeddings.patch_embedding.weight: 768 3 32 32",
    "vision_model.encoder.layers.0.mlp.fc1.weight: 3072 768",
    "vision_model.post_layernorm.weight: 768",
    "visual_projection.weight: 512 768",
    "text_projection.weight: 512 512",
)
CLIP_OPENAI = spelled(
    "positional_embedding: 77 512",
    "text_projection: 512 512",
    "logit_scale: ",
    "visual.class_embedding: 768",
    "visual.conv1.weight: 768 3 32 32",
    "visual.transformer.resblocks.0.attn.in_proj_weight: 2304 768",
    "transformer.resblocks.0.attn.in_proj_weight: 1536 512",
    "transformer.resblocks.0.mlp.c_fc.weight: 2048 512",
    "token_embedding.weight: 49408 512",
    "ln_final.weight: 512",
)


def test_vilt_is_a_single_stream() -> None:
    got = propose(VILT_HF)
    assert got.modalities == {
        "text": "vilt.embeddings.text_embeddings",
        "image": "vilt.embeddings.patch_embeddings",
    }
    assert (got.fusion, got.head) == ("vilt.encoder", "classifier")
    assert any("single stream" in s for s in got.unsure)


def test_vilt_with_the_image_embedding_inside_the_shared_transformer() -> None:
    got = propose(VILT_ORIGINAL)
    assert got.modalities == {"text": "text_embeddings", "image": "transformer.patch_embed"}
    assert (got.fusion, got.head) == ("transformer.blocks.1", "vqa_classifier")


def test_clip_towers_have_no_fusion() -> None:
    got = propose(CLIP_HF)
    assert got.modalities == {"text": "text_model", "vision": "vision_model"}
    assert (got.fusion, got.head) == (None, None)
    assert any("'visual_projection' also belongs to 'vision'" in s for s in got.unsure)
    assert yaml.safe_load(config_text(got, "clip.pt", CLIP_HF))["task"] == "retrieval"


def test_what_cannot_be_told_is_said_with_the_candidates() -> None:
    got = propose(CLIP_OPENAI)
    assert got.modalities == {"visual": "visual"}
    assert any("Only one modality" in s and "'transformer', 'token_embedding', 'ln_final'" in s for s in got.unsure)
    none = propose(shapes_of(mlp(3, 4, 5)))
    assert none.modalities == {}
    assert any("No modality" in s for s in none.unsure)
    assert propose({}).modalities == {}


def test_a_name_that_spans_the_whole_model_is_no_modality() -> None:
    inner = Net(text_encoder=mlp(3, 4), image_encoder=mlp(3, 4), fusion=mlp(8, 4))
    for whole in ("visual_bert", "multimodal_net", "mm_model", "text"):
        got = propose(shapes_of(Net(**{whole: inner, "cls": nn.Linear(4, 2)})))
        assert got.modalities == {"text": f"{whole}.text_encoder", "image": f"{whole}.image_encoder"}
        assert (got.fusion, got.head) == (f"{whole}.fusion", "cls")


def test_branches_of_the_answer_are_no_modalities() -> None:
    trunk = {"peptide_conv": nn.Conv1d(6, 8, 3), "trunk": mlp(8, 16)}
    branches = nn.ModuleList([mlp(16, 4, 1), mlp(16, 4, 1)])
    got = propose(shapes_of(Net(**trunk, branches=branches)))
    assert got.modalities == {}
    assert sum("gives one number" in s for s in got.unsure) == 2
    text = config_text(got, "c.pt", shapes_of(Net(**trunk, branches=branches)))
    assert yaml.safe_load(text)["modalities"] == {}


def test_an_encoder_that_ends_in_the_weights_of_its_attention_stays() -> None:
    slide = Net(patch=mlp(6, 8), attention=nn.Linear(8, 1))
    got = propose(shapes_of(Net(wsi_encoder=slide, text_encoder=mlp(3, 4), fusion=mlp(12, 4))))
    assert got.modalities == {"wsi": "wsi_encoder", "text": "text_encoder"}


@pytest.mark.parametrize(
    ("outputs", "task", "asked"),
    [(1, "regression", "is it a value (regression), 0 or 1"), (3, "classification", "one of 3 classes, 3 labels")],
)
def test_the_task_is_put_as_a_question(outputs: int, task: str, asked: str) -> None:
    net = Net(image_encoder=mlp(8, 6), text_encoder=mlp(8, 6), fusion=mlp(12, 6), head=nn.Linear(6, outputs))
    text = config_text(propose(shapes_of(net)), "c.pt", shapes_of(net))
    line = next(line for line in text.splitlines() if line.startswith("task:"))
    assert yaml.safe_load(line) == {"task": task}
    assert "FILL IN" in line
    assert asked in line


def test_no_task_is_written_where_no_head_could_be_told() -> None:
    shapes = shapes_of(mlp(3, 4, 5))
    text = config_text(propose(shapes), "c.pt", shapes)
    assert "task" not in yaml.safe_load(text)
    assert "# task:  # FILL IN" in text


def test_stages_of_one_modality_are_one_modality() -> None:
    net = Net(audio_conv=nn.Conv1d(1, 4, 3), audio_fc2=mlp(4, 6), image_encoder=mlp(3, 4), fusion=mlp(10, 4))
    got = propose(shapes_of(net))
    assert got.modalities["image"] == "image_encoder"
    assert len(got.modalities) == 2
    cameras = Net(rgb_left_net=mlp(3, 4), rgb_right_net=mlp(3, 4), fusion=mlp(8, 2))
    assert propose(shapes_of(cameras)).modalities == {"rgb_left": "rgb_left_net", "rgb_right": "rgb_right_net"}


def test_the_fusion_is_found_by_the_width_it_takes_in() -> None:
    net = Net(eeg_net=mlp(3, 6), ecg_net=mlp(3, 5), big=nn.Linear(64, 64), alpha=nn.Linear(11, 7), head=nn.Linear(7, 2))
    assert propose(shapes_of(net)).fusion == "alpha"  # 6 + 5 features; not the larger module before it
    del net.alpha
    assert propose(shapes_of(net)).fusion == "big"


def test_the_width_of_recurrent_and_embedding_encoders() -> None:
    net = Net(
        wav_net=nn.LSTM(3, 6, bidirectional=True),
        imu_net=nn.GRU(3, 5),
        big=nn.Linear(64, 64),
        alpha=nn.Linear(17, 7),
        head=nn.Linear(7, 2),
    )
    assert propose(shapes_of(net)).fusion == "alpha"  # 2 × 6 + 5
    net.imu_net = Net(token_embedding=nn.Embedding(40, 5))
    assert propose(shapes_of(net)).fusion == "alpha"


def test_renaming_two_modalities_swaps_their_encoders() -> None:
    shapes = shapes_of(container())
    swap = {"image": "audio", "audio": "image"}
    swapped = {".".join(swap.get(p, p) for p in name.split(".")): shape for name, shape in shapes.items()}
    a, b = propose(shapes), propose(swapped)
    assert list(b.modalities) == [swap[m] for m in a.modalities]
    assert (a.fusion, a.head) == (b.fusion, b.head)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imageEncoder_2", ["image", "encoder", "2"]),
        ("textnet", ["text", "net"]),
        ("RGBStream", ["rgb", "stream"]),
        ("planet", ["planet"]),
        ("été", ["t"]),
        ("", []),
    ],
)
def test_words(name: str, expected: list[str]) -> None:
    assert words(name) == expected


# --- the config text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [case[0] for case in CASES])
def test_config_text_is_a_config(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    shapes = shapes_of(build())
    got = propose(shapes)
    text = config_text(got, "runs/my ckpt.pt", shapes)
    config = check_config(parse_yaml(text, "x"), base=tmp_path)
    assert {name: m.encoder for name, m in config.modalities.items()} == got.modalities
    assert (config.fusion, config.head) == (got.fusion, got.head)
    assert config.model.checkpoint == "runs/my ckpt.pt"
    for line in text.splitlines():
        if line.split(":")[0].strip() in ("factory", "task", "path", "label", "call"):
            assert "# FILL IN: " in line
    assert all(sentence in text for sentence in got.unsure)


def test_config_text_without_any_finding(tmp_path: Path) -> None:
    shapes = {"w": (2, 2)}
    config = check_config(parse_yaml(config_text(propose(shapes), "c.pt", shapes), "x"), base=tmp_path)
    assert (config.modalities, config.fusion, config.head) == ({}, None, None)


HOSTILE = ["no", "null", "1e3", "a: b", "x # y", "'q\"", "\n- evil: 1", "\u2028z", "\x85k", "{a}", "&a", "!!python/x"]


@pytest.mark.parametrize("name", [*HOSTILE, "💥" * 90, "\x1b[2J", "?" * 3000, "\ud800", "=", "~", "- a", "%TAG"])
def test_hostile_names_are_quoted(name: str) -> None:
    shapes = {f"encoders.{name}.weight": (2, 2), "encoders.image.weight": (2, 2), f"{name}.w": (3,)}
    got = propose(shapes)
    assert f"encoders.{name}" in got.modalities.values()
    read = yaml.safe_load(config_text(got, name, shapes))
    assert {m: v["encoder"] for m, v in read["modalities"].items()} == got.modalities
    assert read["model"]["checkpoint"] == name
    assert set(read) == {"model", "modalities", "call", "data"} | ({"fusion"} if got.fusion else set())


def test_sentences_stay_within_their_comment() -> None:
    proposal = Proposal({}, None, None, ("first\nevil: 1\x85\u2028also: 2",))
    assert not {"evil", "also"} & set(yaml.safe_load(config_text(proposal, "c.pt", {})))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.lists(
            st.sampled_from(["encoders", "image", "enc_a", "enc_b", "fusion", "head", "0", "module", "model"])
            | st.text(max_size=4),
            min_size=1,
            max_size=4,
        ).map(".".join),
        st.lists(st.integers(0, 9), max_size=3).map(tuple),
        max_size=12,
    )
)
def test_any_names_give_a_proposal_that_reads_back(shapes: dict[str, tuple[int, ...]]) -> None:
    got = propose(shapes)
    assert isinstance(got, Proposal)
    read = yaml.safe_load(config_text(got, "c.pt", shapes))
    assert {m: v["encoder"] for m, v in (read["modalities"] or {}).items()} == got.modalities
    assert (read.get("fusion"), read.get("head")) == (got.fusion, got.head)


def test_proposed_paths_of_a_real_checkpoint(tmp_path: Path) -> None:
    from collapsekit.adapters.weights.load import load_weights
    from collapsekit.checkpoint.read import read_checkpoint

    net = nn.DataParallel(container())
    torch.save({"model": net.state_dict(), "epoch": 1}, tmp_path / "c.pt")
    checkpoint = read_checkpoint(tmp_path / "c.pt")
    tensors: dict[str, Tensor] = checkpoint.tensors
    got = propose({k: tuple(v.shape) for k, v in tensors.items()})
    fresh = container()
    load_weights(fresh, checkpoint)
    assert torch.equal(
        fresh.get_submodule(got.modalities["audio"])(torch.ones(1, 5)),
        net.module.get_submodule("encoders.audio")(torch.ones(1, 5)),
    )
