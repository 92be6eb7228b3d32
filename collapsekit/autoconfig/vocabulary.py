"""The words that modules are named with, and how a name falls into words."""

from __future__ import annotations

import re

# Sense -> words that name it. A modality is called what the model calls it ("visual" stays "visual").
SENSES: dict[str, tuple[str, ...]] = {
    "image": ("image", "images", "img", "imgs", "vision", "visual", "picture", "photo", "pixel", "pixels"),
    "video": ("video", "videos", "vid", "frames"),
    "audio": ("audio", "aud", "acoustic", "sound", "wav", "wave", "waveform", "spectrogram", "mel", "mfcc"),
    "speech": ("speech", "voice"),
    "text": ("text", "texts", "txt", "language", "lang", "linguistic", "caption", "question", "sentence"),
    "tabular": ("tabular", "tab", "table", "categorical", "numeric", "demographics"),
    "accelerometer": ("accel", "acc", "accelerometer"),
    "gyroscope": ("gyro", "gyroscope"),
    "skeleton": ("skeleton", "pose", "joints"),
    "points": ("points", "pointcloud", "lidar"),
} | {
    word: (word,)
    for word in (
        *("rgb", "depth", "thermal", "infrared", "flow", "event", "imu", "radar", "sonar", "sensor"),
        *("eeg", "ecg", "emg", "ppg", "eda", "gsr", "labs", "notes", "meds", "vitals", "mri", "ct", "xray"),
        *("face", "gaze", "touch", "tactile", "force", "graph", "molecule", "protein", "rna", "dna", "genes"),
    )
}
# Architectures and parts that betray a sense where no word names it.
HINTS: dict[str, tuple[str, ...]] = {
    "image": ("resnet", "vit", "swin", "efficientnet", "densenet", "convnext", "mobilenet", "vgg", "patch"),
    "audio": ("hubert", "whisper", "vggish"),
    "text": ("bert", "roberta", "distilbert", "gpt", "llama", "word", "words"),
}
ENCODER = frozenset(
    ("enc", "encoder", "net", "network", "model", "branch", "backbone", "tower", "stream", "extractor", "stem")
)
CONTAINER = frozenset(
    ("encoders", "nets", "networks", "branches", "backbones", "towers", "streams", "extractors", "stems")
)
PROJECTION = frozenset(
    ("proj", "projection", "projector", "embed", "embedding", "embeddings", "emb", "adapter", "ln", "norm")
)
FUSION = frozenset(
    (
        *("fusion", "fuse", "fuser", "fusing", "fused", "mm", "multi", "multimodal", "cross", "crossmodal"),
        *("joint", "shared", "common", "merge", "merger", "combine", "combiner", "mixer", "aggregator"),
        *("interaction", "bottleneck", "coattention"),
    )
)
HEAD = frozenset(
    (
        *("head", "heads", "classifier", "clf", "cls", "fc", "out", "output", "outputs", "logit", "logits"),
        *("predictor", "pred", "prediction", "regressor", "decoder", "score"),
    )
)
COPY = frozenset(("momentum", "ema", "teacher", "target", "loss", "criterion"))  # trained beside, not the model
LABEL = frozenset(
    (
        *("label", "labels", "target", "targets", "y", "gt", "truth", "answer", "answers", "class", "classes"),
        *("action", "actions", "outcome", "outcomes", "mos", "lbl", "groundtruth", "relevance"),
    )
)
# Fields that say how others are to be read.
BESIDE = frozenset(
    (
        *("mask", "masks", "length", "lengths", "len", "lens", "padding", "pad", "position", "positions", "pos"),
        *("segment", "segments", "type", "types", "grid", "thw", "sizes", "index", "indices", "count", "counts"),
    )
)
LENGTHS = frozenset(("length", "lengths", "len", "lens", "count", "counts", "sizes"))
# What libraries call the fields of modalities.
FIELD_SENSES = {
    "pixel_values": "image",
    "pixel_values_videos": "video",
    "input_ids": "text",
    "input_features": "audio",
    "input_values": "audio",
    "visual_embeds": "image",
}
SENSE_WORDS = frozenset(word for known in SENSES.values() for word in known)

_GLUED = re.compile(r"([a-z]{3,}?)(encoder|enc|net|model|branch|backbone|tower|stream)")


def words(component: str) -> list[str]:
    """Split a name into its words: "imageEncoder_2" -> image, encoder, 2; "textnet" -> text, net."""
    found: list[str] = []
    for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", component[:200]):
        glued = _GLUED.fullmatch(word.lower())
        found += [glued[1], glued[2]] if glued and glued[1] in SENSE_WORDS else [word.lower()]
    return found
