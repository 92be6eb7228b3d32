"""What a trained R3D is worth on sequences of other people, and what knowing the order of actions alone is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.adapters.inserts import ChannelExchange
from collapsekit.reproduce.anticipation.data import ActionSequences, Targets
from collapsekit.reproduce.anticipation.training import RATES, ask
from collapsekit.reproduce.models.r3d import R3D, Anticipated
from collapsekit.stats.linalg.spectrum import effective_rank, singular_values_svd
from collapsekit.stats.metrics import balanced_accuracy

NOISES = (0.2, 0.5)  # standard deviation of what is added, over that of the modality in the training split
NOISY_RATE = 0.3
Guesses = tuple[Tensor, Tensor]  # actions (n, queries), int64, and logarithms of their durations (n, queries)


def scores_of_r3d(model: R3D, train: ActionSequences, data: ActionSequences, seed: int) -> dict[str, float]:
    """Score a network on sequences, as far as they are observed and with noise on one modality.

    Args:
        model: The network.
        train: The training sequences: for the level of the noise, and for the order of actions.
        data: The sequences.
        seed: Of the noise.

    Returns:
        By name: ``current``, ``next``, ``future`` (shares in [0, 1]) and ``duration`` (mean absolute error of the
        logarithm) at each rate, as ``current@0.3``; ``recognised_next`` and ``recognised_future``, which look up what
        follows the action that the network segments last; ``current@0.3+0.2 depth`` and so on with noise; ``alpha``;
        ``rank_before``, ``rank_after`` and ``rank_fused``, effective ranks.
    """
    queries = model.size.queries
    out: dict[str, float] = {}
    for rate in RATES:
        targets, answers = data.targets(rate, queries), ask(model, data, rate)
        out |= scored(guesses_of(answers), targets, data.classes, f"@{rate}")
        if queries > 1:
            last = answers.segments[:, -1].argmax(1)
            looked_up = follow(order_of(train, rate, queries), last)
            found = scored(looked_up, targets, data.classes, f"@{rate}")
            out |= {f"recognised_{name}": v for name, v in found.items() if name[:4] in ("next", "futu")}
    for name, x in data.observed(NOISY_RATE).items():
        spread = train.observed(NOISY_RATE)[name].double().std().float()
        for level in NOISES:
            generator = torch.Generator().manual_seed(seed)
            noisy = x + level * spread * torch.randn(x.shape, generator=generator)
            inputs = {**data.observed(NOISY_RATE), name: noisy}
            answers = ask(model, data, NOISY_RATE, inputs)
            out |= scored(
                guesses_of(answers), data.targets(NOISY_RATE, queries), data.classes, f"@{NOISY_RATE}+{level} {name}"
            )
    return out | ranks_of(model, data.observed(RATES[-1]))


def guesses_of(answers: Anticipated) -> Guesses:
    """Read the likeliest action of each query, and its duration; the first query always has one."""
    actions = answers.actions.clone()
    actions[:, 0, -1] = -torch.inf
    return actions.argmax(2), answers.durations


def scored(guesses: Guesses, targets: Targets, classes: int, suffix: str) -> dict[str, float]:
    """Score guesses: means over classes of the share that is right.

    Args:
        guesses: Actions and durations, query by query.
        targets: What they were to be.
        classes: How many there are; this number stands for none.
        suffix: Put behind each name.

    Returns:
        ``current``: of the action in progress; ``duration``: of each action that there is; where there are several
        queries ``next``: of the action that follows, and ``future``: of the action at each token to come.
    """
    actions, durations = guesses
    there = targets.actions != classes
    out = {
        "current": share_right(actions[:, 0], targets.actions[:, 0], classes),
        "duration": float((durations - targets.durations)[there].double().abs().mean()),
    }
    if actions.shape[1] > 1:
        follows = there[:, 1]
        out["next"] = share_right(actions[follows, 1], targets.actions[follows, 1], classes)
        laid = lay_out(guesses, classes, targets.future.shape[1])
        out["future"] = share_right(laid.flatten(), targets.future.flatten(), classes)
    return {f"{name}{suffix}": value for name, value in out.items()}


def share_right(guessed: Tensor, truth: Tensor, classes: int) -> float:
    """Compute the mean over classes of the share of each that is right (balanced accuracy).

    Args:
        guessed: (n,), int64; ``classes`` names none.
        truth: (n,), int64.
        classes: How many there are.

    Returns:
        In [0, 1]; over the classes that ``truth`` has.
    """
    return balanced_accuracy(F.one_hot(guessed, classes + 1), truth)


def lay_out(guesses: Guesses, classes: int, length: int) -> Tensor:
    """Lay guessed actions out over the tokens to come, each for its share of their time, (n, length).

    Args:
        guesses: Actions and durations; those from the first none on are left out.
        classes: The number that stands for none.
        length: How many tokens are to come.

    Returns:
        The action at each.
    """
    actions, durations = guesses
    counts = (actions != classes).long().cumprod(1)
    time = durations.double().exp() * counts
    ends = (time / time.sum(1, keepdim=True)).cumsum(1)
    middle = ((torch.arange(length) + 0.5) / length).double().expand(len(actions), -1).contiguous()
    query = torch.minimum(torch.searchsorted(ends.contiguous(), middle), counts.sum(1, keepdim=True) - 1)
    return actions.gather(1, query)


def order_of(train: ActionSequences, rate: float, queries: int) -> Guesses:
    """Look up what mostly follows each action in the training sequences, nothing of which is looked at.

    Args:
        train: The training sequences.
        rate: The share of their time that is over.
        queries: How many actions to tell, the one in progress among them.

    Returns:
        A row for each class: the most frequent actions, and the mean logarithm of their durations. Of a class that is
        never in progress: itself, then none.
    """
    targets = train.targets(rate, queries)
    actions = torch.full((train.classes, queries), train.classes)
    durations = torch.zeros(train.classes, queries)
    for c in range(train.classes):
        actions[c, 0] = c
        rows = targets.actions[:, 0] == c
        if rows.any():
            counts = Counter(map(tuple, targets.actions[rows].tolist()))
            most = max(sorted(counts), key=counts.__getitem__)
            actions[c] = torch.tensor(most)
            alike = rows & (targets.actions == actions[c]).all(1)
            durations[c] = targets.durations[alike].mean(0)
    return actions, durations


def follow(order: Guesses, current: Tensor) -> Guesses:
    """Say what follows each of the actions ``current`` (n,) by the order (classes, queries) alone."""
    actions, durations = order
    return actions[current], durations[current]


def scores_of_order(train: ActionSequences, data: ActionSequences, queries: int) -> dict[str, float]:
    """Score what sees nothing: it is told which action is in progress, and knows the order and durations of training.

    Args:
        train: The training sequences.
        data: The sequences.
        queries: How many actions to tell, the one in progress among them.

    Returns:
        As of a network, but ``current``, which it is told, noise and ranks.
    """
    out: dict[str, float] = {}
    for rate in RATES:
        targets = data.targets(rate, queries)
        guesses = follow(order_of(train, rate, queries), targets.actions[:, 0])
        out |= scored(guesses, targets, data.classes, f"@{rate}")
    return {name: value for name, value in out.items() if not name.startswith("current")}


def ranks_of(model: R3D, inputs: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute effective ranks of tokens (all of all sequences, centred), and the mean share that was learned.

    Args:
        model: The network.
        inputs: What is observed, (n, t, ...) by modality.

    Returns:
        ``rank_before`` and ``rank_after`` the exchange, mean over modalities; ``rank_fused`` behind the temporal fuser;
        ``alpha``, 0 where nothing is exchanged.
    """
    model.eval()
    with torch.inference_mode():
        before = {name: model.encoders[name](inputs[name]) for name in model.names}
        after = model.token_fuser(before)
        fused = model.temporal_fuser(torch.stack([after[name] for name in model.names], 2))
        shares = [m.alpha().mean() for m in model.token_fuser.exchange.values() if isinstance(m, ChannelExchange)]
    mean = {k: sum(token_rank(x) for x in v.values()) / len(v) for k, v in (("before", before), ("after", after))}
    ranks = {"rank_before": mean["before"], "rank_after": mean["after"], "rank_fused": token_rank(fused)}
    return ranks | {"alpha": float(torch.stack(shares).mean()) if shares else 0.0}


def token_rank(tokens: Tensor) -> float:
    """Compute the effective rank of tokens (n, t, d), all of them rows, centred."""
    return effective_rank(singular_values_svd(tokens.flatten(0, 1).double()))
