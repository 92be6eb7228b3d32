"""Exchanged channels and their ranks against NumPy's SVD."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.stats import entropy, hmean
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg import exchange as ex
from collapsekit.stats.linalg.moments import Moments

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 999)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@QUICK
@given(seed=SEEDS, t=st.integers(1, 6), c=st.integers(1, 6))
def test_clip_ranks_are_numpys_without_centring(seed: int, t: int, c: int) -> None:
    x = noise(seed, 300, t, c) + 1
    found = ex.clip_ranks(x)
    expected = np.exp(entropy(np.linalg.svd(x.numpy(), compute_uv=False), axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert bool((found >= 1 - 1e-12).all())
    assert bool((found <= min(t, c) + 1e-9).all())
    np.testing.assert_allclose(ex.clip_ranks(x * 1e-150), expected, rtol=1e-9)


def test_clips_of_nothing_have_rank_0_and_padding_adds_none() -> None:
    x = noise(0, 3, 4, 2)
    x[1] = 0
    found = ex.clip_ranks(x)
    assert found[1] == 0
    padded = torch.cat([x, torch.zeros(3, 5, 2)], 1)
    np.testing.assert_allclose(ex.clip_ranks(padded), found, rtol=1e-12)


@QUICK
@given(seed=SEEDS, blend=st.sampled_from([1.0, 0.3]), tokens=st.booleans())
def test_exchange_changes_the_named_channels_alone(seed: int, blend: float, tokens: bool) -> None:
    shape = (5, 3) if tokens else (5,)
    x, y = noise(seed, *shape, 4), noise(seed + 1, *shape, 6)
    before = x.clone()
    found = ex.exchange(x, y, torch.tensor([2, 0]), torch.tensor([5, 1]), blend)
    assert torch.equal(x, before)
    assert torch.equal(found[..., [1, 3]], x[..., [1, 3]])
    np.testing.assert_allclose(found[..., 2], (1 - blend) * x[..., 2] + blend * y[..., 5], atol=1e-15)
    np.testing.assert_allclose(found[..., 0], (1 - blend) * x[..., 0] + blend * y[..., 1], atol=1e-15)


@QUICK
@given(seed=SEEDS, tokens=st.booleans())
def test_magnitude_and_std_are_numpys(seed: int, tokens: bool) -> None:
    x = noise(seed, *((7, 5, 4) if tokens else (7, 4))) + 2
    np.testing.assert_allclose(ex.channel_scores(x, "magnitude"), np.abs(x.numpy()).reshape(-1, 4).mean(0), rtol=1e-12)
    expected = x.numpy().std(1).mean(0) if tokens else x.numpy().std(0)
    np.testing.assert_allclose(ex.channel_scores(x, "std"), expected, rtol=1e-12)


@QUICK
@given(seed=SEEDS, tokens=st.booleans())
def test_the_spectral_score_is_read_off_numpys_svd(seed: int, tokens: bool) -> None:
    x = noise(seed, *((7, 5, 4) if tokens else (30, 4))) * torch.tensor([3.0, 2.0, 0.5, 0.1]) + 2
    flat = x.numpy().reshape(-1, 4)
    _, sigma, v = np.linalg.svd(flat if tokens else flat - flat.mean(0), full_matrices=False)
    strong = int(np.floor(np.exp(entropy(sigma))))
    energy = (sigma[:, None] * v) ** 2
    np.testing.assert_allclose(ex.channel_scores(x, "spectral"), energy[:strong].sum(0) / energy.sum(0), rtol=1e-8)


def test_the_spectral_score_points_at_the_channel_of_weak_directions() -> None:
    common = noise(0, 200, 1)
    x = torch.cat([common, 2 * common, -common, 0.1 * noise(1, 200, 1), torch.ones(200, 1)], 1)
    scores = ex.channel_scores(x, "spectral")
    assert ex.weakest(scores, 2).tolist() == [4, 3]  # no energy, then energy of its own
    assert bool((scores[:3] > 0.99).all())


@pytest.mark.parametrize("how", ["magnitude", "std"])
def test_masked_tokens_do_not_count(how: str) -> None:
    x = noise(0, 2, 6, 3) + 5
    keep = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]).bool()
    found = ex.channel_scores(x * keep[..., None], how, keep)
    np.testing.assert_allclose(found, ex.channel_scores(x[:, :3], how), rtol=1e-12)


def test_rounding_does_not_choose_among_ties() -> None:
    scores = torch.tensor([1.0, 1.0 - 1e-8, 0.5, 1.0 + 1e-8], dtype=torch.float64)
    assert ex.weakest(scores, 3).tolist() == [2, 0, 1]
    assert ex.weakest(torch.zeros(3), 2).tolist() == [0, 1]


@QUICK
@given(seed=SEEDS, k=st.integers(1, 8))
def test_the_weakest_are_the_lowest(seed: int, k: int) -> None:
    scores = noise(seed, 8).abs()
    assert ex.weakest(scores, k).tolist() == np.argsort(scores.numpy(), kind="stable")[:k].tolist()


@QUICK
@given(seed=SEEDS, n=st.integers(5, 40), c=st.integers(2, 6), blend=st.sampled_from([0.001, 0.01, 0.3]))
def test_an_injection_is_read_off_numpys_svd_and_its_bounds_hold(seed: int, n: int, c: int, blend: float) -> None:
    """Gap, change and novelty; and where the change is under half the gap, Weyl's and Wedin's bounds."""
    x, y = noise(seed, n, c) * torch.arange(1.0, c + 1) ** 2 + 3, noise(seed + 1, n, c) - 2
    to = torch.arange(0, c, 2)
    blended = ex.exchange(x, y, to, to, blend)
    found = ex.injection(x, y[:, to], blended, to)
    a, b = (z.numpy() - z.numpy().mean(0) for z in (x, blended))
    (u, sigma, _), (v, after, _) = (np.linalg.svd(z, full_matrices=False) for z in (a, b))
    k = int(np.exp(entropy(sigma)))
    gap = sigma[k - 1] - (sigma[k] if k < len(sigma) else 0)
    norm = np.linalg.norm(b - a, 2)
    assert found.k == k
    np.testing.assert_allclose([found.top, found.gap, found.norm], [sigma[0], gap, norm], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.norms, np.linalg.norm((b - a)[:, to], axis=0), rtol=1e-8)
    given_ = y[:, to].numpy() - y[:, to].numpy().mean(0)
    inside = np.linalg.norm(u[:, :k].T @ given_, axis=0) / np.linalg.norm(given_, axis=0)
    np.testing.assert_allclose(found.novelty, np.sqrt(np.maximum(1 - inside**2, 0)), atol=1e-6)
    if found.norm < found.gap / 2 and k < len(sigma):
        assert after[k - 1] > after[k]
        sine = np.linalg.norm(v[:, :k] - u[:, :k] @ (u[:, :k].T @ v[:, :k]), 2)
        assert sine <= norm / (gap - norm) + 1e-9
        assert norm / (gap - norm) < 1


def test_what_is_given_within_the_dominant_directions_is_not_novel() -> None:
    x = noise(0, 60, 4) * torch.tensor([9.0, 8.0, 0.01, 0.01])
    x -= x.mean(0)
    u = torch.linalg.svd(x, full_matrices=False)[0]
    given_ = torch.stack(
        [u[:, 0] + u[:, 1], u[:, 3], torch.full((60,), 7.0, dtype=torch.float64), u[:, 0] + u[:, 2]], 1
    )
    found = ex.injection(x, given_ + 5, x, torch.arange(4))
    assert found.k == 2
    np.testing.assert_allclose(found.novelty, [0, 1, 0, np.sqrt(0.5)], atol=1e-9)
    assert found.norm == 0
    with pytest.raises(NumericsError, match="constant"):
        ex.injection(torch.ones(5, 3), noise(0, 5, 1), torch.ones(5, 3), torch.tensor([0]))


@QUICK
@given(a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
def test_the_harmonic_mean_is_scipys_where_it_is_defined(a: float, b: float) -> None:
    one, other = torch.tensor([a, a, -a, 0.0]), torch.tensor([b, -b, b, b])
    found = ex.harmonic_mean(one.double(), other.double())
    assert found[0] == pytest.approx(hmean([one[0].item(), other[0].item()]), rel=1e-12)
    assert found[1:].tolist() == [0, 0, 0]
    assert torch.equal(found, ex.harmonic_mean(other.double(), one.double()))


@pytest.mark.parametrize(("proportion", "width", "k"), [(0.3, 10, 3), (0.3, 64, 19), (0.1, 3, 1), (1.0, 5, 5)])
def test_how_many_channels(proportion: float, width: int, k: int) -> None:
    assert ex.exchanged_count(proportion, width) == k


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ex.exchanged_count(0.0, 4), "over 0"),
        (lambda: ex.channel_scores(torch.ones(3, 2), "entropy"), "'entropy'"),
        (lambda: ex.channel_scores(torch.ones(3, 2), "spectral"), "constant"),
        (lambda: ex.weakest(torch.ones(3), 4), "smaller proportion"),
        (lambda: ex.exchange(torch.ones(3, 2), torch.ones(4, 2), *[torch.tensor([0])] * 2), "(4, 2)"),
        (lambda: ex.exchange(torch.ones(3, 2), torch.ones(3, 2), torch.tensor([0, 0]), torch.tensor([0, 1])), "pair"),
        (lambda: ex.exchange(torch.ones(3, 2), torch.ones(3, 2), *[torch.tensor([0])] * 2, 0.0), "blend"),
        (lambda: ex.clip_ranks(torch.ones(3, 2)), "(3, 2)"),
        (lambda: ex.harmonic_mean(torch.tensor([float("inf")]), torch.ones(1)), "finite"),
    ],
)
def test_what_is_not_defined_is_refused(call: object, words: str) -> None:
    with pytest.raises(NumericsError) as raised:
        call()  # type: ignore[operator]
    assert words in str(raised.value)


@pytest.mark.parametrize("blend", [1.0, 0.3])
def test_moments_of_an_exchange_are_those_of_the_exchanged(blend: float) -> None:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(90, 5, generator=g) + 2, torch.randn(90, 7, generator=g) * 3
    to, source = torch.tensor([4, 1]), torch.tensor([0, 6])
    wanted = Moments.of(ex.exchange(x, y, to, source, blend))
    found = ex.exchanged_moments(Moments.of(torch.cat([x, y], 1)), 5, to, source, blend)
    assert found.n == wanted.n
    torch.testing.assert_close(found.mean, wanted.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.scatter, wanted.scatter, rtol=1e-6, atol=1e-5)
    assert not torch.allclose(found.scatter, Moments.of(x).scatter, rtol=0.1)


def test_energy_is_the_energy_over_all_singular_directions() -> None:
    x = torch.randn(9, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    each = ex.example_energies(x)
    for clip, found in zip(x.numpy(), each.numpy(), strict=True):
        _, sigma, vt = np.linalg.svd(clip - clip.mean(0), full_matrices=False)
        np.testing.assert_allclose(found, (sigma[:, None] ** 2 * vt**2).sum(0) / 7, rtol=1e-10)
    np.testing.assert_allclose(ex.channel_scores(x, "energy"), each.mean(0), rtol=1e-12)
    np.testing.assert_allclose(ex.channel_scores(x[:, 0], "energy"), x[:, 0].numpy().var(0), rtol=1e-12)
    keep = torch.arange(7) < torch.randint(1, 8, (9, 1), generator=torch.Generator().manual_seed(1))
    masked = ex.example_energies(x * keep[..., None], keep)
    for clip, kept, found in zip(x.numpy(), keep.numpy(), masked.numpy(), strict=True):
        np.testing.assert_allclose(found, clip[kept].var(0), rtol=1e-9, atol=1e-12)
    with pytest.raises(NumericsError, match="tokens"):
        ex.example_energies(x[0])


def test_other_channels_are_exchanged_in_every_example() -> None:
    g = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 4, 3, 6, generator=g)
    scores = torch.rand(4, 6, generator=g)
    to = ex.weakest_of_each(scores, 2)
    for row, chosen in zip(scores, to, strict=True):
        assert torch.equal(chosen, ex.weakest(row, 2))
    for blend in (0.3, 1.0):
        made = ex.exchange_in_each(own, other, to, blend)
        for i in range(4):
            torch.testing.assert_close(made[i], ex.exchange(own[i], other[i], to[i], to[i], blend))
    for wrong in (lambda: ex.exchange_in_each(own, other[:, :2], to), lambda: ex.exchange_in_each(own, other, to, 0.0)):
        with pytest.raises(NumericsError):
            wrong()


def published() -> Path:
    """The features that the authors of Kim et al. 2025 published, before and after the exchange."""
    where = os.environ.get("COLLAPSEKIT_DATA")
    if where is None or not (path := Path(where) / "r3d_demo_clips.safetensors").is_file():
        pytest.skip("needs r3d_demo_clips.safetensors in COLLAPSEKIT_DATA")
    return path


def test_energy_finds_the_channels_that_the_authors_exchanged() -> None:
    """Of four clips at three rates of observation, in depth and rgb: 38 of 128 channels differ after the exchange. The
    lowest by centred energy in each clip are these; by the share of a channel's own energy hardly more than chance."""
    clips = load_file(published())
    found: dict[str, list[float]] = {"energy": [], "spectral": []}
    for key in {k.rsplit("/", 1)[0] for k in clips}:
        for m in ("depth", "rgb"):
            before, after = clips[f"{key}/{m}_raw"], clips[f"{key}/exchanged_{m}"]
            exchanged = set(((before - after).abs().amax(0) > 1e-6).nonzero()[:, 0].tolist())
            shares = ex.channel_scores(before[None], "spectral")
            for how, of in (("energy", ex.example_energies(before[None])[0]), ("spectral", shares)):
                chosen = set(ex.weakest(of, len(exchanged)).tolist())
                found[how].append(len(chosen & exchanged) / len(exchanged))
    assert len(found["energy"]) == 24
    assert min(found["energy"]) >= 0.95
    assert np.mean(found["energy"]) >= 0.99
    assert np.mean(found["spectral"]) < 0.5
