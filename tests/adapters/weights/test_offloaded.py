"""Models that accelerate has offloaded: their weights lie in memory or in files until a module runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn

import collapsekit
from collapsekit.adapters.build import to_eval
from collapsekit.adapters.live.state import State
from collapsekit.adapters.weights.offloaded import find_offloaded, is_dispatched, read_offloaded, weights_of
from collapsekit.errors import ConfigError
from tests.problems import Problem, make_problem

CPU = torch.device("cpu")
GRADIENTS = "the model's weights are offloaded, so that they have no gradient"
FACTORY = """import torch
from accelerate import cpu_offload
from tests.problems import Late

def build():
    return cpu_offload(Late({"image": 5, "audio": 4}), execution_device=torch.device("cpu"))
"""


def in_memory(model: nn.Module, _folder: Path) -> None:
    accelerate.cpu_offload(model, execution_device=CPU)


def in_files(model: nn.Module, folder: Path) -> None:
    accelerate.disk_offload(model, str(folder / "offloaded"), execution_device=CPU)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    return make_problem(tmp_path, noise=["audio"])


@pytest.mark.parametrize("offload", [in_memory, in_files])
def test_the_report_is_that_of_the_model_in_memory(
    problem: Problem, tmp_path: Path, offload: Callable[[nn.Module, Path], None]
) -> None:
    """Its digest too; but for what takes gradients of weights, which says why."""
    alone = problem.diagnose()
    offload(problem.model, tmp_path)
    before = [(name, id(p), p.device.type) for name, p in problem.model.named_parameters()]
    assert {device for _, _, device in before} == {"meta"}
    found = problem.diagnose()
    assert [(name, id(p), p.device.type) for name, p in problem.model.named_parameters()] == before
    assert found.subject == alone.subject
    assert found.modalities == alone.modalities
    assert found.warnings == alone.warnings
    told = {(r.name, r.modality, r.versus): r for r in found.results}
    odd = {r.name for r in alone.results if told.get((r.name, r.modality, r.versus)) != r}
    assert {name.partition(".")[0] for name in odd} <= {"gradient_rank", "entanglement"}
    (skipped,) = [r.skipped for r in found.results if r.name == "gradient_rank"]
    assert str(skipped).startswith(GRADIENTS)
    assert not any(r.error for r in found.results)


def test_what_waits_is_found_and_read(problem: Problem) -> None:
    model = problem.model
    values: dict[str, Tensor] = {k: v.clone() for k, v in model.state_dict().items()}
    assert not is_dispatched(model)
    assert not find_offloaded(model)
    assert not State.of(model).changed.slots
    in_memory(model, Path())
    assert is_dispatched(model)
    waiting = find_offloaded(model)
    assert waiting.keys() == values.keys()
    assert all(torch.equal(read_offloaded(name, waiting[name]), v) for name, v in values.items())
    assert torch.equal(weights_of(model.head), values["head.weight"])
    assert not State.of(model).slots


def test_a_model_over_devices_is_not_moved(problem: Problem) -> None:
    add_hook_to_module(problem.model.head, AlignDevicesHook(execution_device=CPU, io_same_device=True))
    to_eval(problem.model, torch.device("meta"))
    assert {p.device.type for p in problem.model.parameters()} == {"cpu"}
    assert not find_offloaded(problem.model)
    assert weights_of(problem.model.head) is problem.model.head.weight


def test_without_numbers_anywhere_it_is_refused_as_before(problem: Problem) -> None:
    with pytest.raises(ConfigError, match="is on the meta device, without numbers"):
        problem.diagnose(model=problem.model.to("meta"))


def test_no_checkpoint_is_put_into_it(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(problem.model.state_dict(), tmp_path / "all.pt")
    (tmp_path / "offloading.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = {**problem.config, "model": {"factory": "offloading:build"}}
    with pytest.raises(ConfigError, match=r"'encoders\.image\.weight' and 7 more are offloaded") as caught:
        collapsekit.diagnose(tmp_path / "all.pt", config=config)
    assert str(caught.value).endswith("give it as diagnose(model=...), without a checkpoint.")


def test_a_model_over_devices_is_not_repaired(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(problem.model.state_dict(), tmp_path / "all.pt")
    hooked = (
        "import torch\nfrom accelerate.hooks import AlignDevicesHook, add_hook_to_module\nfrom tests.problems import Late\n"
        "def build():\n"
        "    hook = AlignDevicesHook(execution_device=torch.device('cpu'), io_same_device=True)\n"
        "    return add_hook_to_module(Late({'image': 5, 'audio': 4}), hook)\n"
    )
    (tmp_path / "hooking.py").write_text(hooked)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = {**problem.config, "model": {"factory": "hooking:build"}}
    with pytest.raises(ConfigError, match="is dispatched over devices") as caught:
        collapsekit.repair(tmp_path / "all.pt", output=tmp_path / "out", config=config, method="finetune")
    assert str(caught.value).endswith("or repair by several processes with --fsdp.")
    assert not list((tmp_path / "out").glob("*.safetensors"))
