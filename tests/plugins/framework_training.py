"""Run by test_callbacks.py in a process of its own, because importing trainers takes seconds: a tiny model of two
modalities trained by real ones, with the callback and without it. What came out goes to FOLDER/found.json.

python framework_training.py FOLDER lightning pytorch_lightning huggingface
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.factories import Rows, split_arrays
from tests.problems import Late, make_arrays

torch.set_num_threads(1)
WIDTHS = {"image": 5, "audio": 4}
ARRAYS = make_arrays(WIDTHS)
SPLITS = split_arrays(ARRAYS)
CONFIG = {"modalities": {m: f"encoders.{m}" for m in WIDTHS}, "fusion": "fusion", "task": "classification"}
EVERY, STEPS = 10, 45


HELD = Rows(SPLITS["val"]).arrays


class Net(Late):
    """Late, with what training changes and draws: batch norm and dropout."""

    def __init__(self, ignored: tuple[str, ...]) -> None:
        super().__init__(WIDTHS, ignored=ignored)
        for m, width in WIDTHS.items():
            self.encoders[m] = nn.Sequential(nn.Linear(width, 6), nn.BatchNorm1d(6), nn.Dropout(0.3))


def seeded() -> None:
    torch.manual_seed(5)


def lightning(package: str, folder: Path, batch_size: int, monitored: bool, ignored: tuple[str, ...]) -> dict[str, Any]:
    pl = importlib.import_module("lightning.pytorch" if package == "lightning" else package)
    loggers = importlib.import_module(f"{pl.__name__}.loggers")

    class Module(pl.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(ignored)

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            loss = F.cross_entropy(self.net(**{m: batch[m] for m in WIDTHS}), batch["label"])
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.02)

    seeded()
    module, callbacks, found = Module(), [], list[str]()
    if monitored:
        ours = importlib.import_module(f"collapsekit_callbacks.{package}")
        told: dict[str, Any] = {"module": "net", "label": "label", "loss": F.cross_entropy, "log": lambda *_: None}
        watch = ours.PipelineWatch({m: m for m in WIDTHS}, **told)
        callbacks = [ours.CollapseMonitor(HELD, CONFIG, every=EVERY, module="net"), watch]
    logger = loggers.CSVLogger(folder / f"{package}{batch_size}{monitored}{ignored}")
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=7,
        accumulate_grad_batches=2,
    )
    trainer.fit(module, DataLoader(Rows(SPLITS["train"]), batch_size, shuffle=True))
    if monitored:
        found = [f"{f.modality}: {f.kind}" for f in watch.watch.findings]
    return {"found": found, "logged": logged_csv(Path(logger.log_dir) / "metrics.csv"), **ended(module.net)}


def logged_csv(path: Path) -> dict[str, dict[int, float]]:
    import csv

    out: dict[str, dict[int, float]] = {}
    for row in csv.DictReader(path.open()):
        for name, value in row.items():
            if value and name not in ("step", "epoch"):
                out.setdefault(name, {})[int(row["step"])] = float(value)
    return out


def huggingface(_: str, folder: Path, batch_size: int, monitored: bool, ignored: tuple[str, ...]) -> dict[str, Any]:
    from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments
    from transformers.modeling_outputs import SequenceClassifierOutput

    class Pretrained(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.net = Net(ignored)
            self.post_init()

        def forward(self, image: Tensor, audio: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
            logits = self.net(image=image, audio=audio)
            loss = None if labels is None else F.cross_entropy(logits, labels)
            return SequenceClassifierOutput(loss=loss, logits=logits)

    seeded()
    model = Pretrained(PretrainedConfig())
    arguments = TrainingArguments(
        output_dir=str(folder / "hf"),
        max_steps=STEPS,
        per_device_train_batch_size=batch_size,
        logging_steps=5,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        learning_rate=0.02,
        seed=5,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(SPLITS["train"]))
    found: list[str] = []
    if monitored:
        from collapsekit_callbacks.huggingface import CollapseMonitor, PipelineWatch

        config = {**CONFIG, "modalities": {m: f"net.encoders.{m}" for m in WIDTHS}, "fusion": "net.fusion"}
        CollapseMonitor(HELD, config, every=EVERY).attach(trainer)
        watch = PipelineWatch({m: m for m in WIDTHS}, loader=trainer.train_dataset)
        trainer.add_callback(watch)
    trainer.train()
    if monitored:
        assert watch.watch is not None
        found = [f"{f.modality}: {f.kind}" for f in watch.watch.findings]
    logged: dict[str, dict[int, float]] = {}
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            if name == "loss" or name.startswith("collapsekit/"):
                logged.setdefault(name, {})[entry["step"]] = value
    return {"found": found, "logged": logged, **ended(model.net)}


def ended(net: nn.Module) -> dict[str, Any]:
    """The weights and buffers training ended in, to the bit, and what the generator would give next."""
    state = {k: v.double().reshape(-1).tolist() for k, v in net.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
    return {"state": state, "draw": float(torch.rand(1)), "hooks": hooks}


def nowhere_to_log() -> str:
    from collapsekit_callbacks.huggingface import CollapseMonitor
    from transformers import Trainer, TrainingArguments

    from collapsekit.errors import ConfigError

    arguments = TrainingArguments(output_dir="unused", max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True)
    try:
        Trainer(
            model=Net(()),
            args=arguments,
            train_dataset=Rows(SPLITS["train"]),
            callbacks=[CollapseMonitor(HELD, CONFIG)],
        ).train()
    except ConfigError as e:
        return str(e)
    return "trained"


RUNS: dict[str, tuple[int, bool, tuple[str, ...]]] = {
    "plain": (16, False, ()),
    "monitored": (16, True, ()),
    "other batches": (24, True, ()),
    "collapsed": (16, True, ("audio",)),
}


def main() -> None:
    folder = Path(sys.argv[1])
    found: dict[str, Any] = {}
    for which in sys.argv[2:]:
        train = huggingface if which == "huggingface" else lightning
        found[which] = {name: train(which, folder, *run) for name, run in RUNS.items()}
        if which == "huggingface":
            found[which]["nowhere to log"] = nowhere_to_log()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
