"""LoRA folders merged into their base: against forwards with the low-rank paths, and against PEFT where it is installed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from collapsekit.adapters.weights.load import load_weights
from collapsekit.checkpoint.read import Checkpoint, read_checkpoint
from collapsekit.errors import CollapsekitError, ConfigError, RefusedError
from tests.hostile.forks import FORKS, fork_readers

R, ALPHA = 2, 6.0


@pytest.fixture(scope="module", autouse=True)
def _forked_readers() -> Iterator[None]:
    """Starting a reader takes longer than what it reads here."""
    with fork_readers():
        yield
    FORKS.end()


class Net(nn.Module):
    """Two branches and a head: linear, convolution, embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
        self.text = nn.Embedding(7, 5)
        self.head = nn.Linear(10, 3)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([self.image(image), self.text(text)], 1))
        return out


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make().eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape)


def batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(9)
    return torch.randn(6, 3, 4, 4, generator=g), torch.randint(0, 7, (6,), generator=g)


def factors() -> dict[str, Tensor]:
    torch.manual_seed(4)
    return {
        "image.0.lora_A.weight": draw(R, 3, 3, 3),
        "image.0.lora_B.weight": draw(4, R, 1, 1),
        "image.2.lora_A.weight": draw(R, 16),
        "image.2.lora_B.weight": draw(5, R),
        "text.lora_embedding_A": draw(R, 7),
        "text.lora_embedding_B": draw(5, R),
    }


def folder(place: Path, tensors: dict[str, Tensor], outer: str = "base_model.model.", **config: Any) -> Path:
    place.mkdir(exist_ok=True)
    save_file({outer + k: v.clone() for k, v in tensors.items()}, place / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, "base_model_name_or_path": "x"} | config
    (place / "adapter_config.json").write_text(json.dumps(about))
    return place


def with_paths(net: nn.Module, f: dict[str, Tensor], scaling: float) -> Tensor:
    """What the net answers with the low-rank paths beside its layers."""

    def beside(layer: nn.Module, path: Callable[[Tensor], Tensor]) -> Any:
        return layer.register_forward_hook(lambda _module, args, out: out + scaling * path(args[0]))

    handles = [
        beside(
            net.image[0],  # type: ignore[index]
            lambda x: nn.functional.conv2d(
                nn.functional.conv2d(x, f["image.0.lora_A.weight"]), f["image.0.lora_B.weight"]
            ),
        ),
        beside(net.image[2], lambda x: x @ f["image.2.lora_A.weight"].T @ f["image.2.lora_B.weight"].T),  # type: ignore[index]
        beside(net.text, lambda x: f["text.lora_embedding_A"].T[x] @ f["text.lora_embedding_B"].T),  # type: ignore[arg-type]
    ]
    out: Tensor = net(*batch())
    for handle in handles:
        handle.remove()
    return out


@pytest.mark.parametrize(("config", "scaling"), [({}, ALPHA / R), ({"use_rslora": True}, ALPHA / R**0.5)])
def test_the_merged_model_answers_as_with_the_low_rank_paths(
    tmp_path: Path, config: dict[str, Any], scaling: float
) -> None:
    net = seeded(Net, 1)
    expected = with_paths(net, factors(), scaling)
    taken = load_weights(net, read_checkpoint(folder(tmp_path / "a", factors(), **config)))
    torch.testing.assert_close(net(*batch()), expected, rtol=1e-5, atol=1e-5)
    assert [w.name for w in taken.merged] == ["image.0.weight", "image.2.weight", "text.weight"]
    assert {w.rank for w in taken.merged} == {R}
    assert all(w.effective_rank is not None and 1 < w.effective_rank <= R for w in taken.merged)


@pytest.mark.parametrize("place", ["adapter_model.safetensors", "adapter_model.bin", "the folder", "folder of .bin"])
def test_the_file_and_its_folder_are_the_same(tmp_path: Path, place: str) -> None:
    path = folder(tmp_path / "a", factors())
    if "bin" in place:
        torch.save({f"base_model.model.{k}": v for k, v in factors().items()}, path / "adapter_model.bin")
        (path / "adapter_model.safetensors").unlink()
    net, other = seeded(Net, 1), seeded(Net, 1)
    load_weights(net, read_checkpoint(path if "folder" in place else path / place))
    load_weights(other, read_checkpoint(folder(tmp_path / "b", factors())))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())


def test_a_base_is_loaded_first_and_both_are_digested(tmp_path: Path) -> None:
    base = seeded(Net, 1)
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    adapter = read_checkpoint(folder(tmp_path / "a", factors()))
    checkpoint = adapter.with_base(read_checkpoint(tmp_path / "base.safetensors"))
    net = seeded(Net, 2)
    load_weights(net, checkpoint)
    torch.testing.assert_close(net(*batch()), with_paths(base, factors(), ALPHA / R), rtol=1e-5, atol=1e-5)
    save_file(seeded(Net, 3).state_dict(), tmp_path / "base.safetensors")
    other = adapter.with_base(read_checkpoint(tmp_path / "base.safetensors"))
    assert len({adapter.sha256, checkpoint.sha256, other.sha256}) == 3
    assert "merged into base.safetensors" in checkpoint.note


@pytest.mark.parametrize(
    ("outer", "wrap"),
    [
        ("base_model.model.", lambda net: nn.ModuleDict({"net": net})),
        ("base_model.model.", lambda net: nn.ModuleDict({"vlm": nn.ModuleDict({"tower": net})})),
        ("base_model.model.model.vlm.", lambda net: net),
        ("", lambda net: nn.DataParallel(net)),
        ("base_model.model._orig_mod.", lambda net: net),
    ],
)
def test_names_are_found_behind_a_prefix_of_either_side(tmp_path: Path, outer: str, wrap: Any) -> None:
    net, plain = seeded(Net, 1), seeded(Net, 1)
    load_weights(wrap(net), read_checkpoint(folder(tmp_path / "a", factors(), outer)))
    load_weights(plain, read_checkpoint(folder(tmp_path / "b", factors())))
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in net.state_dict().items())


def test_dora_biases_patterns_transposed_layers_and_whole_weights(tmp_path: Path) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.zeros(3))

    torch.manual_seed(1)
    net = nn.ModuleDict({"deep": nn.ModuleDict({"q": nn.Linear(4, 3), "k": nn.Linear(4, 3)}), "head": nn.Linear(3, 2)})
    before = {k: v.clone() for k, v in net.state_dict().items()}
    a, b, m = draw(R, 4), draw(3, R), draw(3).abs()
    tensors = {
        "deep.q.lora_A.weight": a,
        "deep.q.lora_B.weight": b,
        "deep.q.lora_B.bias": torch.ones(3),
        "deep.k.lora_A.weight": a,
        "deep.k.lora_B.weight": b,
        "deep.k.lora_magnitude_vector": m,
        "head.modules_to_save.weight": torch.full((2, 3), 9.0),
        "deep.k.bias": torch.full((3,), 8.0),
    }
    tensors["head.weight"] = tensors.pop("head.modules_to_save.weight")
    config = {"use_dora": True, "lora_bias": True, "alpha_pattern": {"deep\\.q$": 10.0, "k": 4}}
    load_weights(net, read_checkpoint(folder(tmp_path / "a", tensors, **config)))
    after = net.state_dict()
    torch.testing.assert_close(after["deep.q.weight"], before["deep.q.weight"] + 5 * b @ a)
    torch.testing.assert_close(after["deep.q.bias"], before["deep.q.bias"] + 5)
    whole = before["deep.k.weight"] + 2 * b @ a
    torch.testing.assert_close(after["deep.k.weight"], whole / whole.norm(dim=1, keepdim=True) * m[:, None])
    assert float(after["head.weight"].min()) == 9.0
    assert float(after["deep.k.bias"].min()) == 8.0
    assert torch.equal(after["head.bias"], before["head.bias"])
    turned = nn.ModuleDict({"c": Turned()})
    start = turned.state_dict()["c.weight"].clone()
    parts = {"c.lora_A.weight": a, "c.lora_B.weight": b}
    load_weights(turned, read_checkpoint(folder(tmp_path / "b", parts, fan_in_fan_out=True)))
    torch.testing.assert_close(turned.state_dict()["c.weight"], start + 3 * (b @ a).T)


def tied() -> nn.Module:
    net = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
    net["b"].weight = net["a"].weight
    return net


PAIR = {"a.lora_A.weight": torch.ones(R, 4), "a.lora_B.weight": torch.ones(3, R)}
TWO: Callable[[], nn.Module] = lambda: nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})  # noqa: E731
REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor], dict[str, Any], type[CollapsekitError], str]] = {
    "another method": (TWO, PAIR, {"peft_type": "IA3"}, RefusedError, r"method 'IA3'.*merge_and_unload"),
    "PiSSA": (TWO, PAIR, {"init_lora_weights": "pissa_niter_4"}, RefusedError, "changes its base as well"),
    "a kind of tomorrow": (TWO, PAIR, {"use_magic": True}, RefusedError, "with 'use_magic'"),
    "replicated layers": (TWO, PAIR, {"layer_replication": [[0, 4]]}, RefusedError, "layer_replication"),
    "a pattern": (TWO, PAIR, {"alpha_pattern": {"(a+)+": 3}}, RefusedError, "alpha_pattern"),
    "no number": (TWO, PAIR, {"lora_alpha": "8"}, RefusedError, "lora_alpha"),
    "A alone": (TWO, {"a.lora_A.weight": PAIR["a.lora_A.weight"]}, {}, RefusedError, "without its B"),
    "no product": (TWO, PAIR | {"a.lora_B.weight": torch.ones(3, 5)}, {}, RefusedError, "give no product"),
    "DoRA of a convolution": (
        TWO,
        {
            "a.lora_A.weight": torch.ones(R, 4, 1),
            "a.lora_B.weight": torch.ones(3, R, 1),
            "a.lora_magnitude_vector": torch.ones(3),
        },
        {"use_dora": True},
        RefusedError,
        "another layer than a linear one",
    ),
    "another model": (
        lambda: nn.ModuleDict({"z": nn.Linear(4, 3)}),
        PAIR,
        {},
        ConfigError,
        r"1 of the 1 weights .*'a\.weight'",
    ),
    "other widths": (
        lambda: nn.ModuleDict({"a": nn.Linear(5, 3)}),
        PAIR,
        {},
        ConfigError,
        r"is \(3, 5\), .* for \(3, 4\)",
    ),
    "two towers": (
        lambda: nn.ModuleDict({"left": TWO(), "right": TWO()}),
        PAIR,
        {},
        ConfigError,
        r"several parts of the model \('left\.', 'right\.'\)",
    ),
    "tied": (tied, PAIR, {}, ConfigError, r"'a\.weight' alone, which is the same tensor as 'b\.weight'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_merged_says_what_to_do_and_changes_nothing(tmp_path: Path, name: str) -> None:
    make, tensors, config, kind, words = REFUSED[name]
    net = make()
    before = copy.deepcopy(net.state_dict())
    place = folder(tmp_path / "a", tensors, **config)
    with pytest.raises(kind, match=words) as e:
        load_weights(net, read_checkpoint(place))
    assert "\n" not in str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', "\xff", '{"a": ' + "[" * 100 + "]" * 100 + "}"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    place = folder(tmp_path / "a", PAIR)
    (place / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RefusedError, match=r"adapter_config\.json"):
        read_checkpoint(place)


def test_weights_that_merely_lie_beside_such_a_config_are_weights(tmp_path: Path) -> None:
    folder(tmp_path, PAIR)
    save_file(seeded(Net, 1).state_dict(), tmp_path / "merged.safetensors")
    checkpoint = read_checkpoint(tmp_path / "merged.safetensors")
    assert checkpoint.adapter is None
    load_weights(seeded(Net, 2), checkpoint)
    (tmp_path / "adapter_config.json").write_text("{")
    assert read_checkpoint(tmp_path / "merged.safetensors").adapter is None


def test_against_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    for number, how in enumerate(({}, {"use_rslora": True}, {"use_dora": True, "target_modules": ["2", "head"]})):
        net = seeded(Net, 1)
        config = {"r": 3, "lora_alpha": 5, "target_modules": ["0", "2", "text"], "modules_to_save": ["head"]} | how
        if "head" in config["target_modules"]:
            del config["modules_to_save"]
        wrapped = peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(**config))
        with torch.no_grad():
            for n, p in wrapped.named_parameters():
                if p.requires_grad:
                    p.copy_(torch.rand(p.shape) + (1.0 if "magnitude" in n else 0.0))
        wrapped.save_pretrained(tmp_path / str(number))
        load_weights(net, read_checkpoint(tmp_path / str(number)))
        torch.testing.assert_close(net(*batch()), wrapped.eval()(*batch()), rtol=1e-4, atol=1e-4)


def test_tensors_of_an_adapter_without_its_config_are_named(tmp_path: Path) -> None:
    save_file({f"base_model.model.{k}": v for k, v in PAIR.items()}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="merge_and_unload"):
        load_weights(TWO(), read_checkpoint(tmp_path / "w.safetensors"))
    assert isinstance(read_checkpoint(tmp_path / "w.safetensors"), Checkpoint)
