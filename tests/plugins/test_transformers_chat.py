"""Rows and chats to batches of a generative model, and its model from config.json: tiny processors, nothing fetched."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from collapsekit import diagnose
from collapsekit.errors import ConfigError, DataError

NEEDS = ("transformers", "tokenizers", "PIL")  # asked for without importing them, which takes seconds
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(find_spec, NEEDS)), reason=f"needs {', '.join(NEEDS)}"),
]
PLUGIN = Path(__file__).parents[2] / "plugins" / "transformers" / "src"

TEXTS = ("what which colour is it", "how bright the picture", "red blue light dark very", "user assistant : .")
WORDS = [word for text in TEXTS for word in text.split()]
SPECIAL = {
    "<pad>": 0,
    "<unk>": 1,
    "<s>": 2,
    "</s>": 3,
    "<image>": 63,
    "<|AUDIO|>": 62,
    "<|audio_bos|>": 60,
    "<|audio_eos|>": 59,
}
VOCABULARY = SPECIAL | {word: 4 + i for i, word in enumerate(WORDS)}
NAMES = {number: word for word, number in VOCABULARY.items()}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% elif c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|> {% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}</s> {% endif %}{% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    for name in [n for n in sys.modules if n.partition(".")[0] == "collapsekit_transformers"]:
        monkeypatch.delitem(sys.modules, name)


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **names, extra_special_tokens=["<image>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    )


def processor(template: str | None = TEMPLATE) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        tokenizer=tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def llava() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(**VISION, image_size=8, projection_dim=16)
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**TEXT),
        image_token_index=63,
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config)


def picture(seed: int, red: bool = False) -> Any:
    drawn = torch.randn(10, 8, 3, generator=torch.Generator().manual_seed(seed)) * 20 + 120
    drawn[..., 0 if red else 2] += 60
    return drawn.clamp(0, 255).byte().numpy()


def words(ids: torch.Tensor) -> str:
    return " ".join(NAMES[int(i)] for i in ids)


ROWS = [
    {"image": picture(0), "question": "what colour is it", "answer": "blue"},
    {"image": picture(1), "question": "how bright is the picture", "answer": "very light"},
]


def batch_of(rows: list[dict[str, Any]], template: str | None = TEMPLATE, **kwargs: Any) -> dict[str, Any]:
    from collapsekit_transformers.chat import loaders

    return next(iter(loaders({"test": rows}, processor(template), **kwargs)["test"]))


def test_labels_say_what_comes_next_and_the_answer_but_its_last_token_is_given() -> None:
    batch = batch_of(ROWS)
    prompts = ["user : <image> <image> <image> <image> what colour is it assistant :"]
    prompts += ["user : <image> <image> <image> <image> how bright is the picture assistant : very"]
    for i, (prompt, answer) in enumerate(zip(prompts, (["blue"], ["very", "light"]), strict=True)):
        length = len(prompt.split())
        assert words(batch["input_ids"][i][:length]) == prompt
        assert batch["attention_mask"][i].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        said = batch["labels"][i]
        assert [NAMES[int(j)] for j in said[said != -100]] == answer
        assert int((said != -100).nonzero()[-1]) == length - 1
    assert batch["pixel_values"].shape == (2, 3, 8, 8)


def test_a_row_is_the_same_in_any_batch() -> None:
    together = batch_of(ROWS)
    for i, row in enumerate(ROWS):
        alone = batch_of([row])
        length = alone["input_ids"].shape[1]
        for key in ("input_ids", "attention_mask", "labels"):
            assert torch.equal(together[key][i, :length], alone[key][0]), key
        assert torch.equal(together["pixel_values"][i], alone["pixel_values"][0])


def test_a_chat_is_the_row_that_it_says() -> None:
    def chat(row: dict[str, Any]) -> dict[str, Any]:
        content = [{"type": "image", "image": row["image"]}, {"type": "text", "text": row["question"]}]
        reply = {"role": "assistant", "content": row["answer"]}
        return {"messages": [{"role": "user", "content": content}, reply]}

    rows, chats = batch_of(ROWS), batch_of([chat(r) for r in ROWS])
    assert rows.keys() == chats.keys()
    assert all(torch.equal(rows[k], chats[k]) for k in rows)
    before = [{"role": "user", "content": "is it dark"}, {"role": "assistant", "content": "very"}]
    empty = [{"role": "user", "content": ""}, *before[1:]]  # is not where the question goes
    assert words(batch_of([{"messages": [*empty, *chat(ROWS[0])["messages"]]}])["input_ids"][0]).count("colour") == 1
    longer = batch_of([{"messages": [*before, *chat(ROWS[0])["messages"]]}])
    assert words(longer["input_ids"][0]).startswith("user : is it dark assistant : very </s> user : <image>")


def test_columns_may_have_other_names_and_pictures_other_forms(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(ROWS[0]["image"]).save(tmp_path / "a.png")
    plain = batch_of(ROWS[:1])
    forms = [
        Image.fromarray(ROWS[0]["image"]),
        torch.as_tensor(ROWS[0]["image"]).permute(2, 0, 1),
        str(tmp_path / "a.png"),
    ]
    for form in forms:
        row = {"img": form, "query": ROWS[0]["question"], "label": ROWS[0]["answer"]}
        other = batch_of([row], columns={"image": "img", "question": "query", "answer": "label"})
        assert all(torch.equal(plain[k], other[k]) for k in plain)


def test_another_question_brings_no_answer_along() -> None:
    from collapsekit_transformers.chat import loaders

    loader = loaders({"test": ROWS}, processor())["test"]
    examples = [{**loader.dataset[0], "question": loader.dataset[1]["question"]}]  # as collapsekit exchanges it
    assert loader.collate_fn is not None
    batch = loader.collate_fn(examples)
    assert words(batch["input_ids"][0]).endswith("how bright is the picture assistant :")
    assert [NAMES[int(j)] for j in batch["labels"][0] if j != -100] == ["blue"]


def test_without_a_template_the_picture_stands_before_the_question() -> None:
    batch = batch_of(ROWS[:1], template=None)
    assert words(batch["input_ids"][0]).endswith("<image> <image> <image> <image> what colour is it")
    assert [NAMES[int(j)] for j in batch["labels"][0] if j != -100] == ["blue"]


def test_sounds_are_given_as_sounds() -> None:
    from collapsekit_transformers.chat import loaders
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    made = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer(), chat_template=TEMPLATE)
    sound = torch.randn(1600, generator=torch.Generator().manual_seed(0)).numpy()
    rows = [{"audio": {"array": sound, "sampling_rate": 16000}, "question": "what is it", "answer": "dark"}] * 2
    batch = next(iter(loaders({"test": rows}, made)["test"]))
    assert "<|AUDIO|>" in words(batch["input_ids"][0])
    assert batch["input_features"].shape[:2] == (2, 8)
    assert [NAMES[int(j)] for j in batch["labels"][0] if j != -100] == ["dark"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"image": picture(0), "answer": "blue"}, r"row 0 of split 'test' has question None, expected a text"),
        ({"image": picture(0), "question": "what", "answer": " "}, "has answer ' '"),
        (
            {"image": torch.zeros(4, 4), "question": "what", "answer": "blue"},
            r"its image cannot be read .*found \(4, 4\)",
        ),
        ({"image": "no/such.png", "question": "what", "answer": "blue"}, "its image cannot be read"),
        ({"messages": [{"role": "user", "content": "what"}]}, r"roles \['user'\], expected a chat that ends with"),
        ({"messages": "what"}, r"roles \[\]"),
        ("what", "row 0 of split 'test' is str"),
    ],
)
def test_what_cannot_be_read_is_named(row: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        batch_of([row])


def _many(count: int, seed: int) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    red = torch.randint(0, 2, (count,), generator=draw).tolist()
    asked = torch.randint(0, 2, (count,), generator=draw).tolist()
    return [
        {
            "image": picture(1000 * seed + i, bool(r)),
            "question": ("what colour is it", "which colour is the picture")[a],
            "answer": ("blue", "red")[r],
        }
        for i, (r, a) in enumerate(zip(red, asked, strict=True))
    ]


def _project(folder: Path) -> Path:
    """A trained tiny LLaVA with its processor as save_pretrained leaves them, rows with files of pictures, a config."""
    from collapsekit_transformers.chat import loaders
    from PIL import Image

    rows = {split: _many(count, i) for i, (split, count) in enumerate({"train": 160, "val": 60, "test": 80}.items())}
    made, model = processor(), llava()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(12):
        for batch in loaders({"train": rows["train"]}, made, batch_size=40)["train"]:
            labels = batch.pop("labels")
            loss = torch.nn.functional.cross_entropy(model(**batch).logits.flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder / "vlm")
    made.save_pretrained(folder / "vlm")
    for split, some in rows.items():
        lines = []
        for i, row in enumerate(some):
            Image.fromarray(row["image"]).save(folder / f"{split}-{i}.png")
            lines.append(json.dumps({**row, "image": f"{split}-{i}.png"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    config = folder / "collapsekit.yaml"
    config.write_text(
        f"""
model:
  factory: collapsekit_transformers.generative:build_model
  kwargs: {{config: {folder / "vlm"}}}
  checkpoint: vlm
modalities: {{image: , question: }}
output: logits
task: tokens
task_options: {{shift: false}}
data:
  factory: collapsekit_transformers.chat:from_files
  kwargs:
    processor: {folder / "vlm"}
    files: {{train: {folder}/train.jsonl, val: {folder}/val.jsonl, test: {folder}/test.jsonl}}
    batch_size: 40
  edit: examples
  label: labels
"""
    )
    return config


def test_a_folder_and_files_of_rows_are_diagnosed_by_yaml_alone(tmp_path: Path) -> None:
    report = diagnose(
        config=_project(tmp_path), profile="quick", probes=["reliance", "utilisation"], cache=tmp_path / "c"
    )
    assert report.modalities["image"].verdict == "used"
    assert report.modalities["question"].verdict in ("uninformative", "inconclusive")


def test_a_model_is_built_of_its_config_alone(tmp_path: Path) -> None:
    from collapsekit_transformers.generative import build_model

    model = llava()
    model.config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    raw = json.loads(file.read_text()) | {"architectures": ["LlavaForConditionalGeneration"]}
    hostile = {"auto_map": {"AutoModel": "evil--x.Model"}, "quantization_config": {"quant_method": "bitsandbytes"}}
    raw["text_config"] |= {"auto_map": {"AutoConfig": "evil--x.Config"}, "attn_implementation": "evil/kernel"}
    file.write_text(json.dumps(raw | hostile))
    built = build_model(str(tmp_path))
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert {p.dtype for p in built.parameters()} == {torch.float32}
    for named in (["AutoConfig"], ["os"], ["BertModel"], None, ["A", "B"]):
        file.write_text(json.dumps({**raw, "architectures": named}))
        with pytest.raises(ConfigError, match="expected one generative class of transformers"):
            build_model(str(tmp_path))
    file.write_text(json.dumps({**raw, "text_config": {**raw["text_config"], "num_attention_heads": -1}}))
    with pytest.raises(ConfigError, match="cannot be built from"):
        build_model(str(file))


GENERATIVE = {
    "Idefics3ForConditionalGeneration": {
        "model_type": "idefics3",
        "image_token_id": 63,
        "scale_factor": 2,
        "vision_config": {**VISION, "image_size": 16},
        "text_config": {"model_type": "llama", **TEXT},
    },
    "Qwen2VLForConditionalGeneration": {
        "model_type": "qwen2_vl",
        "text_config": {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        "vision_config": {
            "depth": 1,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 2,
        },
    },
    "PaliGemmaForConditionalGeneration": {
        "model_type": "paligemma",
        "vision_config": {**VISION, "model_type": "siglip_vision_model", "image_size": 8, "projection_dim": 16},
        "text_config": {**TEXT, "model_type": "gemma", "head_dim": 8},
        "projection_dim": 16,
        "image_token_index": 63,
    },
    "Gemma3ForConditionalGeneration": {
        "model_type": "gemma3",
        "vision_config": {**VISION, "model_type": "siglip_vision_model", "image_size": 8},
        "text_config": {**TEXT, "model_type": "gemma3_text", "head_dim": 8},
        "mm_tokens_per_image": 4,
    },
    "Qwen2AudioForConditionalGeneration": {
        "model_type": "qwen2_audio",
        "audio_config": {
            "model_type": "qwen2_audio_encoder",
            "d_model": 16,
            "num_mel_bins": 8,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "max_source_positions": 10,
        },
        "text_config": {"model_type": "qwen2", **TEXT},
    },
    "WhisperForConditionalGeneration": {
        "model_type": "whisper",
        "vocab_size": 64,
        "d_model": 16,
        "num_mel_bins": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "decoder_start_token_id": 2,
    },
}


@pytest.mark.parametrize("name", GENERATIVE)
def test_vision_and_audio_language_models_are_built_of_theirs(name: str, tmp_path: Path) -> None:
    from collapsekit_transformers.generative import build_model

    (tmp_path / "config.json").write_text(json.dumps({**GENERATIVE[name], "architectures": [name]}))
    assert type(build_model(str(tmp_path))).__name__ == name


def test_what_is_no_processor_or_no_rows_is_named(tmp_path: Path) -> None:
    from collapsekit_transformers.chat import from_files

    with pytest.raises(ConfigError, match="gives no processor"):
        from_files(str(tmp_path), {})
    processor().save_pretrained(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"question": "what"\n')
    with pytest.raises(DataError, match="line 1, is no JSON"):
        from_files(str(tmp_path), {"test": str(tmp_path / "rows.jsonl")})
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        from_files(str(tmp_path), {"test": str(tmp_path / "none.jsonl")})
