"""Leftovers: what of a file is no part of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters.weights.load import WeightsTaken, load_weights
from collapsekit.checkpoint.leftovers import drop_ignored, matches
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.errors import ConfigError


def make() -> nn.Module:
    return nn.ModuleDict({"enc": nn.Linear(3, 4), "head": nn.Linear(4, 2)})


def loaded(extra: dict[str, Tensor], prefix: str = "", ignore: tuple[str, ...] = (), model: Any = None) -> WeightsTaken:
    model = make() if model is None else model
    state = {prefix + k: torch.full_like(v, 3.0) for k, v in model.state_dict().items()}
    taken = load_weights(model, Checkpoint(Path("w"), "", "torch zip", state | extra, None, ""), ignore)
    assert all(float(v.min()) == float(v.max()) == 3.0 for v in model.state_dict().values())
    return taken


ONE = torch.ones(2)
BESIDE = (
    "criterion.weight",
    "loss_fn.margin",
    "contrastive_loss.logit_scale",
    "train_acc.correct",
    "val_metrics.total",
    "valid_auroc.preds",
    "discriminator.0.weight",
    "netD.0.weight",
    "optimizer.state",
    "lr_scheduler.last",
    "ema.enc.weight",
)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_a_model_is_left_out_and_listed(name: str, prefix: str) -> None:
    assert loaded({name: ONE}, prefix).left_out == (name,)
    assert loaded({prefix + name: ONE}, prefix).left_out == (prefix + name,)


def test_counters_and_old_position_ids() -> None:
    ids = torch.arange(5)[None]
    assert loaded({"n_averaged": torch.tensor(3)}, "module.").left_out == ("n_averaged",)
    assert loaded({"enc.embeddings.position_ids": ids}).left_out == ("enc.embeddings.position_ids",)
    with pytest.raises(ConfigError, match=r"position_ids"):
        loaded({"enc.embeddings.position_ids": ids.float()})


@pytest.mark.parametrize(
    "name", ["enc.extra.weight", "head.criterion.w", "aux_head.weight", "loss_head.weight", "critic.w"]
)
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_what_is_unknown_under_the_model_s_own_prefix_is_refused(name: str, prefix: str) -> None:
    with pytest.raises(ConfigError, match="1 unexpected in the checkpoint"):
        loaded({prefix + name: ONE}, prefix)


def test_any_name_beside_the_model_s_prefix_is_left_out_where_the_model_is_whole() -> None:
    assert loaded({"projector.weight": ONE, "step": ONE}, "model.").left_out == ("projector.weight", "step")
    state = {"model.enc.weight": torch.ones(4, 3), "projector.weight": ONE}
    with pytest.raises(ConfigError, match=r"3 missing .*'projector\.weight'"):
        load_weights(make(), Checkpoint(Path("w"), "", "torch zip", state, None, ""))


def test_a_part_of_the_model_is_never_left_out_for_its_name() -> None:
    """Of a model that has a criterion of its own, another entry of that is refused."""
    model = nn.ModuleDict({"enc": nn.Linear(3, 4), "criterion": nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match=r"unexpected .*'criterion\.margin'"):
        loaded({"criterion.margin": ONE}, model=model)


def test_what_the_user_ignores() -> None:
    assert loaded({"aux.0.weight": ONE, "aux.1.weight": ONE}, "module.", ("aux.*",)).left_out == (
        "aux.0.weight",
        "aux.1.weight",
    )
    assert loaded({"module.aux.0.weight": ONE}, "module.", ("aux.*",)).left_out == ("module.aux.0.weight",)
    assert loaded({"text.aux.0.weight": ONE}, "", ("*.aux.*",)).left_out == ("text.aux.0.weight",)
    with pytest.raises(ConfigError, match="unexpected"):
        loaded({"text.aux.0.weight": ONE}, "", ("aux.*",))
    two = {f"{p}.{k}": torch.full_like(v, 3.0) for p in ("student", "teacher") for k, v in make().state_dict().items()}
    model = make()
    taken = load_weights(model, Checkpoint(Path("w"), "", "torch zip", two, None, ""), ("teacher.*",))
    assert all(n.startswith("teacher.") for n in taken.left_out)
    assert len(taken.left_out) == 4


def test_the_pattern_that_a_message_proposes_is_one() -> None:
    for prefix in ("", "module.", "model._orig_mod."):
        with pytest.raises(ConfigError) as e:
            loaded({f"{prefix}aux.0.weight": ONE, f"{prefix}aux.1.weight": ONE}, prefix)
        pattern = str(e.value).partition("ignore: ['")[2].partition("'")[0]
        assert (
            len(loaded({f"{prefix}aux.0.weight": ONE, f"{prefix}aux.1.weight": ONE}, prefix, (pattern,)).left_out) == 2
        )


def test_patterns_are_fnmatch_s_and_tell_capitals() -> None:
    assert matches("a.b", ("a.*",))
    assert matches("module.model.a.b", ("a.?",))
    assert not matches("A.b", ("a.*",))
    assert not matches("x.a.b", ("a.*",))
    assert list(drop_ignored({"a.b": ONE, "c": ONE}, ("a.[ab]",))) == ["c"]
    assert list(drop_ignored({"a.b": ONE}, ())) == ["a.b"]


def test_what_the_model_s_class_does_not_read() -> None:
    class Encoder(nn.Linear):
        _keys_to_ignore_on_load_unexpected = (r"rotary\.inv_freq$",)

    def model() -> nn.Module:
        return nn.ModuleDict({"enc": Encoder(3, 4), "head": nn.Linear(4, 2)})

    name = "enc.rotary.inv_freq"
    assert loaded({name: ONE}, model=model()).left_out == (name,)
    with pytest.raises(ConfigError, match="inv_freq_old"):
        loaded({f"{name}_old": ONE}, model=model())
    with pytest.raises(ConfigError, match="inv_freq"):
        loaded({name: ONE})


def test_the_same_holds_where_the_model_s_own_loading_decides() -> None:
    def hooked() -> nn.Module:
        model = make()
        model._register_load_state_dict_pre_hook(lambda *_: None)
        return model

    assert loaded({"criterion.w": ONE}, "module.", model=hooked()).left_out == ("criterion.w",)
    assert loaded({"projector.w": ONE}, "model.", model=hooked()).left_out == ("projector.w",)
    with pytest.raises(ConfigError, match=r"unexpected .*'aux\.w'"):
        loaded({"aux.w": ONE}, model=hooked())
