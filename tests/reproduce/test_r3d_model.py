"""R3D: what each part may see, and what it must not."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.adapters.inserts import ChannelExchange, insert
from collapsekit.reproduce.models.r3d import (
    R3D,
    CrossModalBlock,
    DepthEncoder,
    ExchangedShare,
    R3DSize,
    SkeletonEncoder,
    StrongestExchange,
    TokenFuser,
)
from collapsekit.stats.linalg.exchange import example_energies, exchange_in_each, weakest_of_each

SIZE = R3DSize(classes=5, queries=3, width=16, heads=2, steps=12)


WEAKEST = ExchangedShare(0.3)


def make(share: ExchangedShare = WEAKEST, seed: int = 0) -> R3D:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = {"depth": DepthEncoder(16, 16, 0.1), "skeleton": SkeletonEncoder(4, 16, 0.1)}
        return R3D(encoders, SIZE, share).eval()


def draw(n: int = 6, t: int = 7, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "depth": torch.rand(n, t, 16, 16, generator=generator),
        "skeleton": torch.randn(n, t, 3, 4, generator=generator),
    }


def tokens_of(seed: int = 2, n: int = 5, t: int = 7, d: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(d, generator=generator) + 0.1
    return {m: scale * torch.randn(n, t, d, generator=generator) for m in ("depth", "skeleton")}


def test_shapes() -> None:
    model, inputs = make(), draw()
    said = model.anticipate(inputs)
    assert said.segments.shape == (6, 7, 5)
    assert said.actions.shape == (6, 3, 6)
    assert said.durations.shape == (6, 3)
    assert torch.equal(model(**inputs), said.actions[:, 0, :5])


def test_at_a_modality_s_place_the_cross_modal_block_reads_the_other_of_that_time_alone() -> None:
    torch.manual_seed(0)
    block = CrossModalBlock(2, SIZE).eval()
    x = torch.randn(4, 7, 2, 16)
    changed = x.clone()
    changed[:, 3, 0] += 1
    # Gradients on: torch's fast path for inference must not be what makes it so.
    for moved in ((block(changed) - block(x)).abs().amax((0, 3)).detach(), _without_gradients(block, x, changed)):
        assert float(moved[3, 0]) == 0, "what a modality said came back to its own place"
        assert float(moved[3, 1]) > 1e-2
        moved[3, 1] = 0
        assert float(moved.max()) == 0, "another time was read"


def test_of_three_modalities_one_s_own_token_only_says_which_of_the_others_it_reads() -> None:
    torch.manual_seed(0)
    block = CrossModalBlock(3, SIZE).eval()
    x = torch.randn(4, 7, 3, 16)
    alike = x.clone()
    alike[:, :, 2] = alike[:, :, 1]
    for start, same in ((alike, True), (x, False)):
        changed = start.clone()
        changed[:, :, 0] += torch.randn(4, 7, 16)
        assert torch.allclose(block(changed)[:, :, 0], block(start)[:, :, 0], atol=1e-6) is same


def _without_gradients(block: CrossModalBlock, x: Tensor, changed: Tensor) -> Tensor:
    with torch.no_grad():
        return (block(changed) - block(x)).abs().amax((0, 3))


def test_modalities_come_in_no_order_for_the_cross_modal_block() -> None:
    torch.manual_seed(0)
    block, x = CrossModalBlock(3, SIZE).eval(), torch.randn(4, 7, 3, 16)
    order = [2, 0, 1]
    assert torch.allclose(block(x)[:, :, order], block(x[:, :, order]), atol=1e-6)


def test_a_sequence_is_answered_alike_in_whatever_batch() -> None:
    model, inputs = make(), draw()
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    said = model.anticipate(inputs)
    turned = model.anticipate({m: x[order] for m, x in inputs.items()})
    single = model.anticipate({m: x[2:3] for m, x in inputs.items()})
    for whole, mixed, one in zip(said, turned, single, strict=True):
        assert torch.allclose(whole[order], mixed, atol=1e-5)
        assert torch.allclose(whole[2:3], one, atol=1e-5)


def test_queries_come_in_no_order() -> None:
    model, inputs = make(), draw()
    before = model.anticipate(inputs)
    with torch.no_grad():
        model.anticipation.queries.copy_(model.anticipation.queries[[2, 0, 1]].clone())
    after = model.anticipate(inputs)
    assert torch.allclose(before.actions[:, [2, 0, 1]], after.actions, atol=1e-5)
    assert torch.allclose(before.durations[:, [2, 0, 1]], after.durations, atol=1e-5)


def test_encoders_read_no_later_token() -> None:
    model, inputs = make(), draw()
    for name, x in inputs.items():
        later = x.clone()
        later[:, 4:] += 1
        encoder = model.encoders[name]
        assert torch.equal(encoder(later)[:, :4], encoder(x)[:, :4])
        assert not torch.equal(encoder(later)[:, 4:], encoder(x)[:, 4:])


def test_the_weakest_channels_of_each_clip_are_blended_as_the_reference_has_it() -> None:
    tokens, count = tokens_of(), 4
    fuser = TokenFuser(("depth", "skeleton"), 16, ExchangedShare(0.3))
    mixed = fuser(tokens)
    for m, other in (("depth", "skeleton"), ("skeleton", "depth")):
        to = weakest_of_each(example_energies(tokens[m]), count)
        expected = exchange_in_each(tokens[m], tokens[other], to, 0.3)
        assert torch.allclose(mixed[m], expected, atol=1e-6)
        assert int((mixed[m] != tokens[m]).any(1).sum(1).unique()) == count


def test_the_strongest_are_those_of_the_highest_energy() -> None:
    tokens = tokens_of()
    mixed = TokenFuser(("depth", "skeleton"), 16, ExchangedShare(0.3, "strongest"))(tokens)
    for m in tokens:
        energies = example_energies(tokens[m])
        to = energies.argsort(1, descending=True)[:, :4]
        blended = (mixed[m] != tokens[m]).any(1)
        assert torch.equal(blended, torch.zeros_like(blended).scatter(1, to, True))


def test_random_channels_are_the_same_in_every_clip_and_others_by_seed() -> None:
    tokens = tokens_of()
    drawn = []
    for seed in (0, 0, 1):
        mixed = TokenFuser(("depth", "skeleton"), 16, ExchangedShare(0.3, "random", seed=seed))(tokens)
        blended = (mixed["depth"] != tokens["depth"]).any(1)
        assert bool((blended == blended[:1]).all())
        assert int(blended[0].sum()) == 4
        drawn.append(blended[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_nothing_is_exchanged_at_a_share_of_zero_and_all_else_begins_alike() -> None:
    tokens, plain, blended = tokens_of(), make(ExchangedShare(0.0)), make()
    assert all(x is tokens[m] for m, x in plain.token_fuser(tokens).items())
    own, other = plain.state_dict(), blended.state_dict()
    assert {k for k in other if k not in own} == {k for k in other if "exchange" in k}
    assert len(other) > len(own)
    assert all(torch.equal(own[k], other[k]) for k in own)


def test_the_token_fuser_is_what_the_repair_inserts() -> None:
    """The repair's records, inserted into the network without exchange, give the answers of the one with a token fuser."""
    plain, blended = make(ExchangedShare(0.0)), make()
    records = []
    for m, post in blended.token_fuser.exchange.items():
        assert type(post) is ChannelExchange
        to = tuple(post.receiving.tolist())
        records.append(
            {"kind": "exchange", "modality": m, "path": f"encoders.{m}", "part": None, "channels": None, "features": 16}
            | {"giver": post.giver, "given": 16, "to": to, "source": to, "each": post.each, "blend": 0.3}
        )
    inputs = draw()
    before = plain(**inputs)
    assert torch.allclose(insert(plain, records)(**inputs), blended(**inputs), atol=1e-5)
    assert not torch.allclose(before, blended(**inputs), atol=1e-3)


def test_strongest_and_weakest_are_one_another_s_rest() -> None:
    tokens = tokens_of()["depth"]
    record = {"modality": "depth", "giver": "skeleton", "features": 16, "given": 16, "blend": 0.3}
    record |= {"to": range(16), "source": range(16), "each": 12}
    weak, strong = (make(record, ["skeleton"]).chosen(tokens) for make in (ChannelExchange, StrongestExchange))
    assert torch.equal(weak + strong, torch.ones(5, 1, 16))


def test_durations_begin_from_the_time_that_is_left() -> None:
    model = make()
    with torch.no_grad():
        model.anticipation.duration.weight.zero_()
        model.anticipation.duration.bias.zero_()
    for t, left in ((3, 9 / 12), (9, 3 / 12), (12, 0.5 / 12)):
        said = model.anticipate(draw(t=t)).durations.exp()
        assert torch.allclose(said, torch.full_like(said, left))
