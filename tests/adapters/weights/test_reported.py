"""What a report says of the weights: which were taken, and what was left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from collapsekit import diagnose, repair
from collapsekit.errors import ConfigError
from collapsekit.report.diagnosis import Report
from tests.adapters.test_validate import Model, data

CODE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fusion, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(10, 6), nn.Linear(6, 3)
    def forward(self, a, b):
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))
"""


def project(folder: Path, content: Any, model: str = "") -> Path:
    (folder / "nets.py").write_text(CODE)
    torch.save(content, folder / "ckpt.pt")
    save_file({f"{s}/{k}": v for s, part in data().items() for k, v in part.items()}, folder / "d.safetensors")
    (folder / "collapsekit.yaml").write_text(
        f"model: {{factory: 'nets:Net', checkpoint: ckpt.pt{model}}}\n"
        "modalities: {a: a, b: b}\nfusion: fusion\ndata: {path: d.safetensors}\n"
    )
    return folder


def report_of(folder: Path, checkpoint: Path | None = None) -> Report:
    config = folder / "collapsekit.yaml"
    return diagnose(checkpoint, config=config, profile="quick", probes=["reliance"])


def warned(report: Report) -> dict[str, str]:
    return {w.name: w.sentence for w in report.warnings}


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: 2 * v for k, v in state.items()}


def test_what_was_left_out_is_a_warning(tmp_path: Path) -> None:
    state = Model().state_dict()
    plain = report_of(project(tmp_path, state))
    assert not plain.warnings
    extra = {f"net.{k}": v for k, v in state.items()} | {"criterion.w": torch.ones(2), "net.aux.w": torch.ones(3)}
    with pytest.raises(ConfigError, match=r"1 unexpected .*'net\.aux\.w'.*`model: \{ignore: \['net\.aux\*'\]\}`"):
        report_of(project(tmp_path, extra))
    report = report_of(project(tmp_path, extra, ", ignore: ['net.aux*']"))
    assert report.results == plain.results
    assert (
        "2 entries of the checkpoint are no part of the model, and left out: 'net.aux.w', 'criterion.w'."
        in (warned(report)["entries_left_out"])
    )


def test_averages_are_a_warning_and_have_their_own_numbers(tmp_path: Path) -> None:
    own, averages = dict(Model().state_dict()), doubled(Model().state_dict())
    plain = report_of(project(tmp_path, averages))
    both = {"model": own, "ema": {k: v for k, v in averages.items() if k != "head.bias"}, "epoch": 1}
    own["head.bias"] = averages["head.bias"]
    report = report_of(project(tmp_path, both, ", weights: ema"))
    assert report.results == plain.results
    said = warned(report)["averaged_weights"]
    assert "averages (EMA) that lie under 'ema'" in said
    assert "'head.bias' has none there" in said
    assert "7 averaged tensors (EMA) taken from 'ema'" in report.settings["checkpoint"]
    assert report_of(project(tmp_path, both)).results != plain.results
    with pytest.raises(ConfigError, match="weights"):
        report_of(project(tmp_path, both, ", weights: averaged"))


def test_a_repair_of_averages_is_loaded_as_it_was_written(tmp_path: Path) -> None:
    folder = project(tmp_path, {"model": Model().state_dict(), "ema": doubled(Model().state_dict())}, ", weights: ema")
    done = repair(
        None,
        config=folder / "collapsekit.yaml",
        method=["finetune"],
        modalities=["b"],
        training={"epochs": 1},
        output=tmp_path / "out",
        keep=True,
    )
    assert (tmp_path / "out" / "model.safetensors").is_file(), done
    again = report_of(folder, tmp_path / "out")
    assert "averaged_weights" not in warned(again)


def test_an_adapter_and_its_base(tmp_path: Path) -> None:
    base = dict(Model().state_dict())
    folder = project(tmp_path, base, ", base: base.pt")
    torch.save(base, folder / "base.pt")
    with pytest.raises(ConfigError, match=r"names a model\.base, and .*ckpt\.pt is no adapter"):
        report_of(folder)
    a, b = torch.full((2, 4), 0.5), torch.tensor([[1.0, 0.0]] * 5)
    whole = base | {"a.weight": base["a.weight"] + 2 * b @ a}
    plain = report_of(project(tmp_path, whole))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(
        {"base_model.model.a.lora_A.weight": a, "base_model.model.a.lora_B.weight": b},
        adapter / "adapter_model.safetensors",
    )
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    project(tmp_path, base, ", base: base.pt")
    report = report_of(folder, adapter)
    assert report.results == plain.results
    assert warned(report) == {
        "adapter_merged": "LoRA was merged into 1 weight: 1 (rank 2, effective rank 1.0) in the encoder of 'a'; none in the "
        "encoder of 'b'; none elsewhere. The numbers are those of the merged model."
    }
    assert "merged into base.pt (sha256:" in report.settings["checkpoint"]
    project(tmp_path, base)
    with pytest.raises(ConfigError, match=r"two builds of its base .*`model: \{base: base\.safetensors\}`"):
        report_of(folder, adapter)
    live = Model()
    live.load_state_dict(base)
    config = {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion"}
    of_live = diagnose(adapter, model=live, data=data(), config=config, profile="quick", probes=["reliance"])
    assert of_live.results == plain.results
    assert all(torch.equal(v, base[k]) for k, v in live.state_dict().items())
