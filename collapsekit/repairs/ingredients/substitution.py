"""Substitution of missing modalities: whose latent encoding stands in first for whose (Chaudhuri et al. 2025, section 4.4).

The substitution itself is in collapsekit.adapters.inserts, so that an exported model has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.adapters.inserts import BasisHead, capture_latents, posts_of
from collapsekit.adapters.pooling import pool_features
from collapsekit.io.transfer import named_to_cpu
from collapsekit.repairs.training.job import CHUNK, Job
from collapsekit.report.diagnosis import Result
from collapsekit.stats.inference.bounded import bounded_interval
from collapsekit.stats.inference.bounds import Bounds
from collapsekit.stats.inference.leave_out import leave_out_means

LEVEL = 0.95
COSINE = Bounds(-1.0, 1.0)
SOURCE = "Chaudhuri et al. 2025, section 4.4"


def pooled_latent(job: Job, modality: str, latent: Tensor, rows: Tensor) -> Tensor:
    """Pool latent vectors to one an example: the mean over positions that count.

    Args:
        job: The repair's job, with the masks of the training examples.
        modality: The modality that the vectors are of.
        latent: Latent vectors (n, ..., latent) of these rows.
        rows: Training rows (n,).

    Returns:
        (n, latent).
    """
    mask = job.adapter.config.modalities[modality].mask
    keep = job.at.train.inputs[mask][rows] if mask is not None and latent.ndim > 2 else None
    return pool_features(latent, "auto", "last", keep, f"modality {modality!r}")


def latent_vectors(job: Job) -> dict[str, Tensor]:
    """Latent vectors (n, latent) of the training examples by modality, float64; the model is left in eval mode."""
    parts: dict[str, list[Tensor]] = {m: [] for m in job.adapter.modalities}
    job.adapter.model.eval()
    with torch.no_grad():
        for rows in job.at.fit.split(CHUNK):
            with capture_latents(job.adapter.model) as heard:
                job.adapter.run_live(job.batch(rows))
            pooled = named_to_cpu({m: pooled_latent(job, m, heard[m], rows) for m in parts})
            for m, held in parts.items():
                held.append(pooled[m].double())
    return {m: torch.cat(held) for m, held in parts.items()}


def similarities(latents: Mapping[str, Tensor], reference: str) -> dict[str, float]:
    """Average the cosine between each modality's latent vectors (n, latent) and the reference's over examples, -1 to 1."""
    return {m: float(F.cosine_similarity(g, latents[reference], dim=1).mean()) for m, g in latents.items()}


def order_of(ranked: Sequence[str], modality: str) -> list[str]:
    """Order the other modalities by how near they stand in the ranked list.

    Of two as near, the one nearer to the reference comes first.
    """
    at = ranked.index(modality)
    return sorted((m for m in ranked if m != modality), key=lambda m: (abs(ranked.index(m) - at), ranked.index(m)))


def note_substitutes(job: Job) -> list[Result]:
    """Let each head know whose encoding stands in first for its modality: all are ranked by similarity to the strongest
    (by Shapley credit), and the closest in that list is the first choice. Returns the similarities."""
    strongest = max(job.adapter.modalities, key=lambda m: job.credit[m])
    latents, groups = latent_vectors(job), job.at.train.groups[job.at.fit]
    found = similarities(latents, strongest)
    ranked = sorted(found, key=lambda m: (m != strongest, -found[m], job.adapter.modalities.index(m)))
    results = []
    for m, post in posts_of(job.adapter.model, "basis").items():
        assert isinstance(post.insert, BasisHead)
        order = order_of(ranked, m)
        cosines = leave_out_means(F.cosine_similarity(latents[m], latents[strongest], dim=1), groups).tolist()
        post.insert.order.copy_(torch.tensor([post.insert.others.index(other) for other in order]))
        results.append(
            Result(
                name="substitution.similarity",
                probe="substitution",
                modality=m,
                versus=strongest,
                value=found[m],
                interval=_interval(found[m], cosines[1:]) if len(cosines) > 2 else None,
                bounds=COSINE.ends,
                definition="mean over training examples of the cosine between latent vectors and those of the strongest "
                "modality (by Shapley credit)",
                source=SOURCE,
                note=f"where it is missing there stand in, in this order: {', '.join(order)}",
            )
        )
    return results


def at_first(result: Result) -> Result:
    """Name a similarity as one before the heads were trained: how far encodings came together is what Theorem 3 of
    Chaudhuri et al. 2025 is about."""
    return result.model_copy(
        update={
            "name": "substitution.similarity_before",
            "definition": f"{result.definition}, before the heads were trained",
            "source": f"{SOURCE}, Theorem 3",
            "note": None,
        }
    )


def _interval(value: float, without: list[float]) -> tuple[float, float]:
    """Jackknife interval of a mean cosine, within what it can be."""
    full, out = torch.tensor(value, dtype=torch.float64), torch.tensor(without, dtype=torch.float64)
    low, high = bounded_interval(full, out, LEVEL, COSINE)
    return float(low), float(high)
