"""What a config can get wrong about a model, and what the model is told to do about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.features.extraction import extract
from tests.problems import adapt


def data(n: int = 12) -> dict[str, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    return {
        "test": {"a": torch.randn(n, 4, generator=g), "b": torch.randn(n, 4, generator=g), "label": torch.arange(n) % 3}
    }


def config(**changes: Any) -> dict[str, Any]:
    return {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion", **changes}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.b = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.fusion = nn.Linear(10, 6)
        self.head = nn.Linear(6, 3)
        self.unused = nn.Linear(1, 1)

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))


def refusal(model: nn.Module, cfg: dict[str, Any]) -> str:
    """The one sentence; checked to be one."""
    with pytest.raises(CollapsekitError) as caught:
        extract(adapt(model, cfg, data()), "test")
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "output`."))
    return text


class Shared(Model):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([self.a(a), self.a(b)], 1)))


def test_an_encoder_that_mixes_two_modalities() -> None:
    class Mixed(Model):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.fusion(torch.cat([self.a(a + b), self.a(b)], 1)))

    text = refusal(Mixed(), config(modalities={"a": "a", "b": "a"}))
    assert "is called with modality 'a' and 'b' at once" in text
    assert "leave `encoder` out" in text


def test_an_encoder_of_a_modality_that_no_call_reads() -> None:
    class Deaf(Model):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.fusion(torch.cat([self.a(a), self.a(a * 2)], 1)))

    text = refusal(Deaf(), config(modalities={"a": "a", "b": "a"}))
    assert "no call changes with the inputs of modality 'b'" in text
    assert "whether its values differ between examples" in text


def test_encoder_that_is_never_called() -> None:
    text = refusal(Shared(), config())
    assert "is never called" in text
    assert "leave `encoder` out" in text


class Stacked(Model):
    """Both modalities through one encoder, as one batch."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat(self.a(torch.cat([a, b])).chunk(2), 1)))


def test_modalities_stacked_along_the_batch() -> None:
    text = refusal(Stacked(), config(modalities={"a": "a", "b": "fusion:input"}))
    assert "gives 24 rows for 12 examples" in text
    assert "nn.Identity" in text


class Mapped(Model):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([torch.func.vmap(self.a)(a), self.b(b)], 1)))


def test_encoder_under_vmap() -> None:
    text = refusal(Mapped(), config())
    assert "under torch.vmap" in text


def test_encoder_never_called() -> None:
    text = refusal(Model(), config(modalities={"a": "a", "b": "unused"}))
    assert "'unused'" in text
    assert "never called" in text
    assert "never called" in refusal(Model(), config(fusion="unused"))


@pytest.mark.parametrize("inner", ["a.0", "a.1:input"])
def test_encoder_inside_another(inner: str) -> None:
    text = refusal(Model(), config(modalities={"a": "a", "b": inner}))
    assert "lies inside" in text
    assert "side by side" in text
    text = refusal(Model(), config(modalities={"a": inner, "b": "a"}))
    assert "lies inside" in text


def test_fusion_inside_an_encoder() -> None:
    assert "fusion 'a.0' lies inside encoder 'a'" in refusal(Model(), config(fusion="a.0"))


@pytest.mark.parametrize(
    ("path", "near"), [("fusoin", "'fusion'"), ("fusion.0", "fusion"), ("encoders.a", "at the top it has a, b, fusion")]
)
def test_missing_path_names_near_ones(path: str, near: str) -> None:
    text = refusal(Model(), config(fusion=path))
    assert repr(path) in text
    assert near in text


@pytest.mark.parametrize("section", ["encoder", "head"])
def test_a_path_that_is_no_submodule_is_refused(section: str) -> None:
    cfg = config(head="haed") if section == "head" else config(modalities={"a": "x", "b": "b"})
    text = refusal(Model(), cfg)
    assert "is not a submodule of the model" in text


class PlainList(Model):
    def __init__(self) -> None:
        super().__init__()
        self.towers = [nn.Linear(4, 5)]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([self.towers[0](a), self.b(b)], 1)))


def test_encoder_in_a_plain_list() -> None:
    text = refusal(PlainList(), config(modalities={"a": "towers.0", "b": "b"}))
    assert "towers is a plain Python container" in text
    assert "nn.ModuleList" in text


def test_one_modality() -> None:
    assert "names 1 modalities" in refusal(Model(), config(modalities={"a": "a"}))


class Raises(Model):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        raise KeyError("several\nlines\nof text")


def test_forward_that_raises() -> None:
    text = refusal(Raises(), config())
    assert "forward failed" in text
    assert "a (12, 4) float32" in text
    assert "KeyError" in text
    text = refusal(Model(), config(modalities={"a": {"encoder": "a", "input": "b"}, "b": "b"}))
    assert "TypeError" in text
    assert "missing" in text


class Random(Model):
    """Dropout that forgets to look at self.training, in an encoder or in the mixture."""

    def __init__(self, where: str, source: str = "torch") -> None:
        super().__init__()
        self.where, self.source = where, source

    def noise(self, x: Tensor) -> Tensor:
        if self.source == "numpy":
            import numpy as np

            return x * torch.from_numpy(np.random.rand(*x.shape)).float()
        return F.dropout(x, 0.5, training=True)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.a(self.noise(a) if self.where == "encoder" else a)
        mixed = self.fusion(torch.cat([x, self.b(b)], 1))
        return self.head(self.noise(mixed) if self.where == "fusion" else mixed)


@pytest.mark.parametrize("where", ["encoder", "fusion"])
@pytest.mark.parametrize("source", ["torch", "numpy"])
def test_random_in_eval_mode(where: str, source: str) -> None:
    text = refusal(Random(where, source), config())
    assert "random in eval mode" in text
    assert "deterministic" in text


class DrawsInVain(Model):
    """Draws numbers that no output depends on: accepted."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        torch.rand(3)
        return super().forward(a, b)


def test_drawing_without_consequence_is_no_error() -> None:
    assert len(extract(adapt(DrawsInVain(), config(), data()), "test")) == 12


class Returns(Model):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.make(super().forward(a, b))


@pytest.mark.parametrize(
    ("make", "output", "says"),
    [
        (lambda y: {"scores": y}, None, "scores, none called 'logits'"),
        (lambda y: {"scores": y}, "score", "did you mean 'scores'"),
        (lambda y: y.mean(), None, "one number for 12 examples"),
        (lambda y: y[:5], None, "shape (5, 3) for 12 examples"),
        (lambda y: y, 0, "remove `output`"),
        (lambda _: None, None, "NoneType"),
        (lambda y: y * float("nan"), None, "NaN or infinity first appears in the model's output, at example"),
    ],
)
def test_outputs_that_are_no_prediction(make: Any, output: Any, says: str) -> None:
    assert says in refusal(Returns(make), config(output=output))


@pytest.mark.parametrize(
    ("make", "output"),
    [
        (lambda y: {"logits": y, "loss": y.sum()}, None),
        (lambda y: {"scores": y}, "scores"),
        (lambda y: (y, y.sum()), None),
        (lambda y: (None, y), 1),
        (lambda y: {"scores": (y,)}, "scores"),
    ],
)
def test_outputs_that_are(make: Any, output: Any) -> None:
    model = Returns(make)
    features = extract(adapt(model, config(output=output), data()), "test")
    with torch.no_grad():
        truth = Model.forward(model, features.inputs["a"], features.inputs["b"])
    assert torch.allclose(features.outputs, truth, atol=1e-6)


def test_where_nan_first_appears_is_named_by_the_row_in_the_data() -> None:
    arrays = data()
    arrays["test"]["b"][7, 2] = float("nan")
    with pytest.raises(CollapsekitError, match="'b' of example 7 in split 'test' holds NaN"):
        extract(adapt(Model(), config(data={"batch_size": 5}), arrays), "test")
    arrays = data()
    arrays["test"]["b"][9] = 1e30  # finite, yet the encoder below overflows on it
    model = Model()
    model.b = nn.Sequential(nn.Linear(4, 5), Square())
    with pytest.raises(CollapsekitError, match="features of modality 'b', at example 9 of split 'test'"):
        extract(adapt(model, config(data={"batch_size": 5}), arrays), "test")


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square().square()


def test_ragged_batches_are_explained() -> None:
    from pathlib import Path

    from collapsekit.adapters.module import ModuleAdapter
    from collapsekit.config.load import check_config
    from collapsekit.data.loaders import LoaderSource

    batches = [{"a": torch.randn(2, t), "b": torch.randn(2, 4), "label": torch.tensor([0, 1])} for t in (4, 5)]
    checked = check_config(config(), base=Path())
    adapter = ModuleAdapter(checked, model=Model(), source=LoaderSource({"test": batches}, "mine"))
    with pytest.raises(CollapsekitError, match="a of several sizes, padded to the longest"):
        extract(adapter, "test")


def test_two_builds_that_disagree_name_the_attribute(tmp_path: Any) -> None:
    """Weights in a plain list, in a plain tensor or in a non-persistent buffer are not in the checkpoint."""
    from safetensors.torch import save_file

    from collapsekit import diagnose

    (tmp_path / "hides.py").write_text(HIDES)
    save_file({f"test/{k}": v for k, v in data()["test"].items()}, tmp_path / "d.safetensors")
    for kind, named in (("list", "tower.layers"), ("nested", "_deep"), ("tensor", "proj"), ("buffer", "buf")):
        (tmp_path / "collapsekit.yaml").write_text(
            f"model: {{factory: 'hides:build', kwargs: {{kind: {kind}}}}}\n"
            "modalities: {a: a, b: b}\nfusion: fusion\ndata: {path: d.safetensors}\n"
        )
        import importlib.util

        spec = importlib.util.spec_from_file_location("hides_for_saving", tmp_path / "hides.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.save(module.build(kind).state_dict(), tmp_path / "ckpt.pt")
        with pytest.raises(ConfigError, match=rf"two builds with it loaded disagree \({named} differ") as caught:
            diagnose(tmp_path / "ckpt.pt", config=tmp_path / "collapsekit.yaml", profile="quick")
        assert "register" in str(caught.value)


HIDES = """
import torch
from torch import nn

class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(5, 5)]
    def forward(self, x):
        return self.layers[0](x)

class Hides(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
        self.fusion, self.head = nn.Linear(10, 6), nn.Linear(6, 3)
        self.constant = torch.arange(5)
        if kind == "list":
            self.tower = Tower()
        if kind == "nested":
            self._deep = {"x": [(nn.Linear(5, 5),)]}
        if kind == "tensor":
            self.proj = torch.randn(5, 5)
        if kind == "buffer":
            self.register_buffer("buf", torch.randn(5, 5), persistent=False)
    def forward(self, a, b):
        x = self.a(a)
        x = {"list": lambda: self.tower(x), "nested": lambda: self._deep["x"][0][0](x),
             "tensor": lambda: x @ self.proj, "buffer": lambda: x @ self.buf}[self.kind]()
        self.last = x
        return self.head(self.fusion(torch.cat([x, self.b(b)], 1)))

def build(kind):
    return Hides(kind)
"""
