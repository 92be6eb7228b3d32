"""controls: what the same questions find in models of which the answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.data.base import Batch
from collapsekit.distributed.process_group import current
from collapsekit.errors import NumericsError
from collapsekit.games.coalitions import shapley_values
from collapsekit.measures import LOSS, Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import estimate
from collapsekit.readouts.calibration import calibrate
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.leave_out import leave_out_means

SOURCE = "Adebayo et al. 2018 (sanity checks by randomised weights and labels)"

PERMUTED = declare(
    Measure(
        "controls.permuted",
        definition="Shapley credit of the modality in the same answers of the model once they were dealt out among the "
        "examples at random, calibrated anew: a model that knows nothing of the label",
        source=SOURCE,
        unit=LOSS,
        cannot="it says nothing of the model, only what chance gives under the same questions",
        figure="bars",
    )
)
UNTRAINED = declare(
    Measure(
        "controls.untrained",
        definition="share of the loss of the best constant prediction that the same architecture gains with fresh weights",
        source=SOURCE,
        unit="share",
        cannot="it says nothing of the model, only what its architecture gives without training",
        figure="bars",
    )
)
DUPLICATE = declare(
    Measure(
        "controls.duplicate",
        definition="what a copy of the modality, which the model never reads, is due in the balanced reference beside the "
        "modality itself; its credit is 0",
        source=SOURCE,
        unit=LOSS,
        cannot="it says nothing of the model, only whether a modality that is ignored would be found out",
        figure="bars",
    )
)


PICTURES = (
    Picture(
        "controls",
        "What is found where the answer is known",
        (
            Panel(
                "credit ({unit})",
                {"in shuffled answers": "controls.permuted", "due to an unread copy": "controls.duplicate"},
            ),
            Panel("share of the best constant's loss saved", {"untrained build": "controls.untrained"}),
        ),
        (
            Finding(
                "beyond",
                "controls.permuted",
                {
                    "clear": "Answers shuffled among examples give {modality} credit, which is wrong: {value} {unit}.",
                    "unclear": "Answers shuffled among examples give no modality credit that is clear of 0, as is right.",
                },
            ),
        ),
        about="controls.permuted",
    ),
)


def estimate_cost(preview: Preview) -> Cost:
    """Cost the reference and the coalitions that are shared with utilisation, and one pass of an untrained build."""
    return preview.balanced_reference() + preview.coalitions(preview.shapley_masks) + Cost(passes=preview.size)


@probe(
    "controls",
    title="Controls",
    place=25,
    pictures=PICTURES,
    summary="what shuffled answers, an untrained build and a copy that is never read would be found to use",
    definition="the questions of utilisation put to models of which the answer is known",
    source=SOURCE,
    cannot="a control that reads right does not make a verdict right; one that reads wrong makes it doubtful",
    trains="models",
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Ask of models that use nothing what is asked of this one.

    Shuffled answers and copies take no pass of the model; an untrained build takes one over the diagnosed examples.

    Yields:
        By modality the credit in shuffled answers and what an unread copy of it is due; what an untrained build gains.
    """
    task = session.task
    # Answers of pairs are about their own examples: dealt out among others they would still be right.
    credit = None if task.expects_sets else session.shapley_values(_shuffled(session))[0]
    reference = session.balanced_reference.whole
    for i, m in enumerate(session.modalities):
        permuted = PERMUTED.fill(task)
        if credit is None:
            yield permuted.skipped("answers of pairs cannot be dealt out among examples", modality=m)
        else:
            yield permuted.result(*estimate(credit[i], session.level), modality=m)
        due = _due_of_copy(session, lambda k: -reference.value(k).loss, i)
        yield DUPLICATE.fill(task).result(*estimate(due, session.level), modality=m)
    yield _untrained(session, reference.constant().loss)


def _shuffled(session: Session) -> Callable[[int], Tensor]:
    """The worth of each coalition, (1 + G,), in answers that were dealt out at random among the examples."""
    game, task, features, at = session.game, session.task, session.features, session.fit_split
    g = torch.Generator().manual_seed(session.seed)
    order, held = torch.randperm(len(features), generator=g), torch.randperm(len(at.choose), generator=g)
    sure = calibrate(task, at, task.expect(at.held.outputs[at.choose])[held], at.held_targets)

    def worth(mask: int) -> Tensor:
        loss = task.loss(sure(game.value(mask).expected[order]), features.targets)
        return -leave_out_means(loss, features.groups)

    return worth


def _due_of_copy(session: Session, worth: Callable[[int], Tensor], i: int) -> Tensor:
    """Shapley credit of a copy of modality ``i``, (1 + G,), in a game where either of the two gives what it says."""
    size = len(session.modalities)

    def beside(mask: int) -> Tensor:
        own = mask & ((1 << size) - 1)
        return worth(own | 1 << i if mask >> size & 1 else own)

    credit, _ = shapley_values(beside, size + 1, session.permutations, session.seed)
    return credit[size]


def _untrained(session: Session, prior_loss: Tensor) -> Result:
    fresh = session.adapter.fresh(session.seed)
    if fresh is None:
        return UNTRAINED.skipped(session.adapter.why_not_fresh)
    features, task = session.features, session.task
    outputs = _answers(session, fresh)
    if not bool(torch.isfinite(outputs).all()):
        raise NumericsError("an untrained build gives values that are not finite")
    loss = leave_out_means(task.loss(task.expect(outputs), features.targets), features.groups)
    return UNTRAINED.result(*estimate(1 - loss / prior_loss, session.level))


def _answers(session: Session, fresh: Adapter) -> Tensor:
    """The outputs of another build over all examples, (n, ...), in one pass that the processes share."""
    features = session.features

    def answer(rows: Tensor) -> Tensor:
        batch: Batch = {k: v.index_select(0, rows) for k, v in features.inputs.items()}
        with torch.no_grad():
            seed_everything(session.seed)
            return fresh.run(batch).prediction.outputs.float().cpu()

    rows = torch.arange(len(features)).split(fresh.config.data.batch_size)
    with preserve_rng_state():
        return torch.cat(list(current().map(answer, rows)))
