"""fit_names: the file's names beside the model's, across wrappers' marks and prefixes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from collapsekit.checkpoint.match import Shapes, fit_names, misfit
from collapsekit.errors import ConfigError


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def match_state_dict(expected: Shapes, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of ``expected``, where all fits."""
    fit = fit_names(expected, tensors)
    if fit.missing or fit.wrong or fit.spare:
        raise ConfigError(misfit(expected, tensors, fit, lambda _: False))
    return {name: tensors[fit.pairs[name]] for name in expected}


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in tensors.items()}


component = st.text("abcxyz_0", min_size=1, max_size=4)
names = st.lists(st.lists(component, min_size=1, max_size=4).map(".".join), min_size=1, max_size=8, unique=True)
wrapper = st.lists(st.sampled_from(["module.", "_orig_mod.", "model."]), max_size=4).map("".join)
common = st.sampled_from(["", "", "net.", "backbone."])


@settings(max_examples=150, deadline=None)
@given(names, wrapper, wrapper, common, st.booleans())
def test_match_survives_any_wrapping_of_either_side(
    plain: list[str], outer: str, inner: str, extra: str, model_is_wrapped: bool
) -> None:
    plain = [n for n in plain if not any(other.startswith(n + ".") for other in plain)]
    tensors = {n: torch.full((i + 1,), float(i)) for i, n in enumerate(plain)}
    wrapped = {outer + extra + n: t for n, t in tensors.items()}
    rewrapped = {inner + n: t for n, t in tensors.items()}
    want, have = (wrapped, rewrapped) if model_is_wrapped else (rewrapped, wrapped)
    got = match_state_dict(shapes(want), dict(reversed(have.items())))
    assert same(got, want)


def test_match_equals_load_state_dict_after_wrapping() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    wrapped = nn.DataParallel(nn.ModuleDict({"model": net}))
    saved = {k: v.clone().double() for k, v in wrapped.state_dict().items()}  # dtypes may differ
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    fresh.load_state_dict(match_state_dict(shapes(fresh.state_dict()), saved))
    x = torch.randn(5, 3)
    assert torch.equal(fresh.eval()(x), net.eval()(x))


def test_match_with_a_compiled_submodule() -> None:
    given = {"enc._orig_mod.0.weight": torch.ones(2), "head.weight": torch.ones(1)}
    got = match_state_dict({"enc.0.weight": (2,), "head.weight": (1,)}, given)
    assert list(got) == ["enc.0.weight", "head.weight"]


def test_match_prefers_the_prefix_that_fits_shapes() -> None:
    given = {"w": torch.ones(3)}
    with pytest.raises(ConfigError):
        match_state_dict({"w": (2,)}, given)
    two = {"model.w": torch.ones(2), "w": torch.ones(3)}  # both names exist: nothing may be stripped
    assert same(match_state_dict({"w": (3,), "model.w": (2,)}, two), {"w": two["w"], "model.w": two["model.w"]})


def test_match_takes_a_bounded_stack_of_wrappers_off() -> None:
    eight, nine = "model." * 8, "model." * 9
    assert list(match_state_dict({"w": (2,)}, {f"{eight}w": torch.ones(2)})) == ["w"]
    with pytest.raises(ConfigError, match=r"no name fits|missing"):
        match_state_dict({"w": (2,), "v": (2,)}, {f"{nine}w": torch.ones(2), "model.v": torch.ones(2)})


def test_misfit_lists_each_kind_at_most_six() -> None:
    expected = {f"layer{i}.weight": (i + 1, 2) for i in range(9)} | {"head.weight": (10, 4), "ok": (1,)}
    given = {"module.head.weight": torch.ones(7, 4), "module.ok": torch.ones(1), "module.loss.w": torch.ones(3)}
    with pytest.raises(ConfigError) as e:
        match_state_dict(expected, given)
    text = str(e.value)
    assert "9 missing from the checkpoint: 'layer0.weight' (1, 2), " in text
    assert "'layer5.weight' (6, 2), and 3 more" in text
    assert "layer6" not in text
    assert "1 unexpected in the checkpoint: 'module.loss.w' (3,)" in text
    assert "'head.weight' is (7, 4), the model has (10, 4)" in text
    assert "'ok'" not in text
    assert "\n" not in text


def test_misfit_says_what_to_check() -> None:
    with pytest.raises(ConfigError, match=r"model\.kwargs \(widths, classes\)"):
        match_state_dict({"w": (2,)}, {"module.w": torch.ones(3)})
    with pytest.raises(ConfigError, match="another model's checkpoint"):
        match_state_dict({"w": (2,)}, {"v": torch.ones(2)})
    with pytest.raises(ConfigError, match="no name fits"):
        match_state_dict({"w": (2,)}, {})
    with pytest.raises(ConfigError, match=r"'evil\\n\\x1b\[31m'"):
        match_state_dict({"w": (2,)}, {"evil\n\x1b[31m": torch.ones(2), "w": torch.ones(2)})
    assert match_state_dict({}, {}) == {}


NAMES = {"a.0.weight": (2,), "a.0.bias": (3,), "b.module.weight": (4,), "head.weight": (5,)}
WRAPPED = {
    "FSDP within": ("a.0", "a._fsdp_wrapped_module.0"),
    "checkpoint_wrapper within": ("a.0", "a._checkpoint_wrapped_module.0"),
    "DataParallel within": ("a.0", "a.module.0"),
    "all of them": ("a.0", "a.module._fsdp_wrapped_module._checkpoint_wrapped_module._orig_mod.0"),
}


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod.", "_fsdp_wrapped_module.", "net."])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_marks_are_left_out_anywhere_and_on_either_side(wrapped: str, prefix: str) -> None:
    plain = {n: torch.full(shape, i + 1.0) for i, (n, shape) in enumerate(NAMES.items())}
    marked = {prefix + n.replace(*WRAPPED[wrapped]): t for n, t in plain.items()}
    assert same(match_state_dict(NAMES, marked), plain)
    assert same(match_state_dict(shapes(marked), plain), marked)


def test_marks_stay_where_two_names_would_fall_together() -> None:
    both = {"a.module.w": torch.ones(2), "a.w": torch.zeros(2)}
    assert same(match_state_dict(shapes(both), both), both)
    compiled = {f"_orig_mod.{n}": t for n, t in both.items()}
    assert same(match_state_dict(shapes(both), compiled), both)


def test_one_part_of_a_file_fits() -> None:
    mine = {f"generator.{n}": torch.full(s, 1.0) for n, s in NAMES.items()}
    other = {f"discriminator.{n}": torch.ones(9) for n in NAMES}
    fit = fit_names(NAMES, other | mine)
    assert dict(fit.pairs) == {n: f"generator.{n}" for n in NAMES}
    assert set(fit.spare) == set(other)
    assert all(fit.is_beside(n) for n in other)
    assert not any(fit.is_beside(n) for n in mine)


def test_a_model_that_is_there_twice_is_refused_and_an_averaged_copy_is_not_taken() -> None:
    student = {f"student.{n}": torch.full(s, 1.0) for n, s in NAMES.items()}
    teacher = {f"teacher.{n}": torch.full(s, 2.0) for n, s in NAMES.items()}
    with pytest.raises(ConfigError, match=r"under 'student.' and 'teacher.'.* `model: \{ignore: \['teacher\.\*'\]\}`"):
        fit_names(NAMES, student | teacher)
    ema = {f"ema.{n}": t for n, t in teacher.items()}
    for name in ("ema", "model_ema", "a_ema.ema"):
        ema = {f"{name}.{n}": torch.full(s, 2.0) for n, s in NAMES.items()}
        assert set(fit_names(NAMES, ema | student).pairs.values()) == set(student)


def test_a_misfit_names_what_to_write() -> None:
    extra = {"aux.0.weight": torch.ones(1), "w": torch.ones(2)}
    with pytest.raises(ConfigError, match=r"`model: \{ignore: \['aux\*'\]\}`"):
        match_state_dict({"w": (2,)}, extra)
    for name, word in (
        ("enc._flat_param", "FULL_STATE_DICT"),
        ("enc.q.lora_A.default.weight", "merge_and_unload"),
        ("enc.q.weight.absmax", "dequantize"),
        ("enc.q.qweight", "GPTQ"),
        ("base_model.model.enc.ia3_l", "merge_and_unload"),
        ("enc.q.weight_scale_inv", "8 or 4 bits"),
        ("enc.q.weight_packed", "8 or 4 bits"),
    ):
        with pytest.raises(ConfigError, match=word):
            match_state_dict({"w": (2,)}, {name: torch.ones(2)})
