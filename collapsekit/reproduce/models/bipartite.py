"""Fusion by messages in a graph of examples and modalities, whose edges are features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.reproduce.models.absence import PresentFusion, mean_of_present, presence

ROUNDS = 2
MEMORY = 32
TEMPERATURE = 0.1
AGREEMENT = 0.1  # weight


class MessageRound(nn.Module):
    """Messages along the edges to both sides, then new edges (You et al. 2020, eqs. 1-3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_example, self.to_modality = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.of_example, self.of_modality = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.of_edge = nn.Linear(3 * width, width)

    def examples(self, nodes: Tensor, modalities: Tensor, edges: Tensor, present: Tensor) -> Tensor:
        """Tell examples what their modalities are.

        Args:
            nodes: Of examples, (n, width).
            modalities: Nodes of modalities, (modalities, width).
            edges: (n, modalities, width).
            present: Which edges there are, bool (n, modalities).

        Returns:
            New nodes of examples, (n, width).
        """
        messages = F.relu(self.to_example(torch.cat([modalities.expand_as(edges), edges], 2)))
        return F.relu(self.of_example(torch.cat([nodes, mean_of_present(messages, present)], 1)))

    def modalities(self, nodes: Tensor, examples: Tensor, edges: Tensor) -> Tensor:
        """Tell modalities what examples have of them.

        Args:
            nodes: Of modalities, (modalities, width).
            examples: Nodes of examples that have every modality, (n, width).
            edges: (n, modalities, width).

        Returns:
            New nodes of modalities, (modalities, width).
        """
        messages = F.relu(self.to_modality(torch.cat([examples[:, None].expand_as(edges), edges], 2)))
        return F.relu(self.of_modality(torch.cat([nodes, messages.mean(0)], 1)))

    def edges(self, examples: Tensor, modalities: Tensor, edges: Tensor) -> Tensor:
        """Make new edges (n, modalities, width) of old ones and the nodes at their ends.

        Args:
            examples: Nodes, (n, width).
            modalities: Nodes, (modalities, width).
            edges: (n, modalities, width).

        Returns:
            (n, modalities, width).
        """
        ends = [examples[:, None].expand_as(edges), modalities.expand_as(edges), edges]
        return F.relu(self.of_edge(torch.cat(ends, 2)))


class BipartiteFusion(PresentFusion):
    """After Grape (You et al. 2020): messages between examples and modalities, an edge where an example has a modality.

    Of Grape: the graph, its messages and its edges' updates. Not of it: modalities get messages from a memory of learned
    examples, 32 that have every modality, and not from the batch, so that an example's answer depends on nothing but
    itself; edges are features of encoders, not numbers of a table; no edge is predicted.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.modalities = nn.Parameter(torch.randn(modalities, width) / width**0.5)
        self.memory = nn.Parameter(torch.rand(MEMORY, modalities, width))
        self.rounds = nn.ModuleList(MessageRound(width) for _ in range(ROUNDS))

    def fuse(self, seen: Sequence[Tensor], whole: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Fuse features (n, width) each to (n, width), without a loss of its own."""
        del whole
        return self.nodes(seen), None

    def nodes(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the nodes (n, width) of examples by their features (n, width), one a modality."""
        edges, present = torch.stack(list(features), 1), presence(features)
        modalities: Tensor = self.modalities
        kept: Tensor = self.memory
        nodes, memory = torch.ones_like(edges[:, 0]), torch.ones_like(kept[:, 0])
        every = torch.ones(kept.shape[:2], dtype=torch.bool, device=kept.device)
        for step in self.rounds:
            assert isinstance(step, MessageRound)
            nodes, memory, modalities = (
                step.examples(nodes, modalities, edges, present),
                step.examples(memory, modalities, kept, every),
                step.modalities(modalities, memory, kept),
            )
            edges, kept = step.edges(nodes, modalities, edges), step.edges(memory, modalities, kept)
        return nodes


class ConsistentFusion(BipartiteFusion):
    """After MUSE (Wu et al. 2024): the bipartite graph, and an example's node is to stay the same as modalities go.

    Of MUSE: the graph with edges taken away, and the contrast of each example's node with and without them among those of
    the batch, in training alone. Not of it: the supervised half of its contrast, labels as nodes, and messages between the
    examples of a batch.
    """

    def fuse(self, seen: Sequence[Tensor], whole: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Fuse features (n, width) each to (n, width); the loss is the contrast."""
        nodes = self.nodes(seen)
        return nodes, AGREEMENT * agreement(nodes, self.nodes(whole)) if self.training else None


def agreement(a: Tensor, b: Tensor) -> Tensor:
    """Compute the contrast of rows of ``a`` (n, width) with the same rows of ``b`` (n, width) among all, in nats.

    InfoNCE, the mean of both directions, a scalar; ln n where nothing is told apart.
    """
    near = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / TEMPERATURE
    aim = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(near, aim) + F.cross_entropy(near.T, aim)) / 2
