"""What a model does beside answering, and what its data repeat: each as a warning for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import unregistered
from collapsekit.adapters.live.absence import describe_absence
from collapsekit.adapters.live.state import same_bits
from collapsekit.adapters.weights.lora import MergedWeight
from collapsekit.io.safe_text import quote
from collapsekit.report.diagnosis import ReportWarning

_MOST = 5  # names in a sentence
_NORMALISES = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def listed(names: Iterable[str]) -> str:
    """Join a few names in quotes, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _MOST} more" if len(every) > _MOST else ""
    return ", ".join(map(quote, every[:_MOST])) + more


def inputs_changed(adapter: Adapter) -> ReportWarning | None:
    """Warn of a model that writes into what it is given."""
    keys = [k for k in adapter.batch_keys if k in (adapter.written or ())]
    if not keys:
        return None
    owners = [m for m in adapter.modalities if set(adapter.input_keys(m)) & set(keys)]
    of = f" (of {'modality' if len(owners) == 1 else 'modalities'} {listed(owners)})" if owners else ""
    return ReportWarning(
        name="inputs_changed_in_place",
        sentence=f"The model's forward writes into its input {listed(keys)}{of}. It was given copies, so the numbers are "
        "those of the data as they are; code that uses a batch again after the model sees altered data. "
        "Write `x = x * 2` for `x *= 2` there.",
    )


def modalities_missing(present: Mapping[str, Tensor], split: str) -> ReportWarning | None:
    """Warn of modalities that examples of a split lack; ``present``: which have it (n,), by such a modality."""
    if not present:
        return None
    n = len(next(iter(present.values())))
    told = [f"{quote(m)} in {n - int(there.sum())}" for m, there in present.items()]
    return ReportWarning(
        name="modalities_missing",
        sentence=f"Of {n} examples of split {quote(split)} some lack a modality: {', '.join(told)}. Such an example gives "
        "that modality to no other and takes it from none; the model sees it as the data spell it.",
    )


def absent_as(adapter: Adapter) -> ReportWarning | None:
    """Say what stands in the place of absent modalities, where that is not another example's."""
    told = describe_absence(adapter)
    if not told:
        return None
    return ReportWarning(
        name="absent_as",
        sentence=f"Where a modality is absent, {told.removeprefix('; ')}, as the config says. A model that never met "
        "that in training can do worse on it than on another example's, so that credits tell of the substitute, too.",
    )


def integers_cast(adapter: Adapter) -> ReportWarning | None:
    """Warn of integers that were given to a model as floating values, as they are: nobody said by what to divide them."""
    keys = [k for k in adapter.batch_keys if k in adapter.cast]
    if not keys:
        return None
    return ReportWarning(
        name="integers_cast",
        sentence=f"The model cannot read the integers of its {'input' if len(keys) == 1 else 'inputs'} {listed(keys)}: "
        "it was given the same numbers as floating values. Where its training divided them (by 255, say), these are numbers "
        "of a model outside of its range: set the modality's `scale`.",
    )


def weights_changed(adapter: Adapter) -> ReportWarning | None:
    """Warn of a forward in eval mode that changes floating weights or buffers; counts and flags are let be."""
    names = adapter.unsteady.floating if adapter.unsteady is not None else []
    if not names:
        return None
    return ReportWarning(
        name="weights_changed_in_forward",
        sentence=f"A forward in eval mode changes {listed(names)}. Each was put back before every forward, so the numbers "
        "are those of the weights as loaded; in use they move with every call. Change them only where `self.training`.",
    )


def entries_left_out(adapter: Adapter) -> ReportWarning | None:
    """Warn of what a checkpoint holds beside the model's weights, and of what the user ignores of it."""
    names = adapter.weights.left_out
    if not names:
        return None
    what = f"{len(names)} entries of the checkpoint are" if len(names) > 1 else "One entry of the checkpoint is"
    return ReportWarning(
        name="entries_left_out",
        sentence=f"{what} no part of the model, and left out: {listed(names)}. Every weight of the model was "
        "loaded. Where the model does need them, let model.factory build the whole of it.",
    )


def adapter_merged(adapter: Adapter) -> ReportWarning | None:
    """Warn that weights are those of a base with an adapter merged into them, and say whose path that touches."""
    merged = adapter.weights.merged
    if not merged:
        return None
    paths = {m: section.encoder for m, section in adapter.config.modalities.items() if section.encoder is not None}
    inside = {
        m: [w for w in merged if w.name.startswith(f"{path.removesuffix(':input')}.")] for m, path in paths.items()
    }
    rest = [w for w in merged if not any(w in part for part in inside.values())]
    told = [
        *(f"{_ranks(part)} in the encoder of {quote(m)}" for m, part in inside.items()),
        f"{_ranks(rest)} elsewhere",
    ]
    weights = f"{len(merged)} weight{'s' * (len(merged) > 1)}"
    return ReportWarning(
        name="adapter_merged",
        sentence=f"LoRA was merged into {weights}: {'; '.join(told)}. The numbers are those of the merged model.",
    )


def weights_dequantised(adapter: Adapter) -> ReportWarning | None:
    """Warn that weights were packed into a few bits, and are used as the floating numbers that they stand for."""
    packed = adapter.weights.packed
    if packed is None:
        return None
    count = len(packed.weights)
    return ReportWarning(
        name="weights_dequantised",
        sentence=f"{count} weight{'s' * (count > 1)} of the checkpoint {'were' if count > 1 else 'was'} packed by "
        f"{packed.scheme}: the model was given the floating numbers that they stand for. Kernels that compute on packed "
        "weights round otherwise.",
    )


def _ranks(merged: Sequence[MergedWeight]) -> str:
    """How many weights, and how many directions is added to each on average."""
    spread = [w.effective_rank for w in merged if w.effective_rank is not None]
    if not merged:
        return "none"
    if not spread:
        return f"{len(merged)} (nothing is added to them)"
    return f"{len(merged)} (rank {max(w.rank for w in merged)}, effective rank {sum(spread) / len(spread):.1f})"


def averages_taken(adapter: Adapter) -> ReportWarning | None:
    """Warn that weights are averages, and which of the model's have none."""
    taken = adapter.weights
    if taken.averaged is None:
        return None
    rest = f" {listed(taken.lacking)} {'has' if len(taken.lacking) == 1 else 'have'} none there: the model's own were taken."
    return ReportWarning(
        name="averaged_weights",
        sentence=f"The weights are the averages (EMA) that lie under {quote(taken.averaged)} in the checkpoint, as "
        f"model.weights says.{rest if taken.lacking else ''} The numbers are not those of the weights that were trained.",
    )


def depends_on_batch(adapter: Adapter, apart: Sequence[str]) -> ReportWarning | None:
    """Warn of what comes out otherwise beside other examples: ``apart``, of modalities, "fused" and "outputs"."""
    if not apart:
        return None
    encoders = [m for m in adapter.modalities if m in apart]
    if encoders:
        where = f"the features of {'modality' if len(encoders) == 1 else 'modalities'} {listed(encoders)} do"
    else:
        where = "the fused representation does" if "fused" in apart else "the outputs do"
    norms = [n for n, m in adapter.model.named_modules() if isinstance(m, _NORMALISES) and _over_the_batch(m)]
    cause = f"; {listed(norms)} {'takes' if len(norms) == 1 else 'take'} statistics from the batch" if norms else ""
    return ReportWarning(
        name="depends_on_batch",
        sentence=f"What the model makes of an example depends on the other examples in its batch: {where}{cause}. The "
        "numbers hold for this `data.batch_size` and this set of examples, and others give other numbers. Let the model "
        "take such statistics only where `self.training`.",
    )


def _over_the_batch(module: nn.Module) -> bool:
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return batch_norm and (module.training or getattr(module, "running_mean", None) is None)


def floating_loose(model: nn.Module) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Copy the floating tensors, of any shape, that are outside of the state_dict: each with its copy, by the attribute
    that holds it.
    """
    loose = {k: [t for t in ts if t.is_floating_point()] for k, ts in unregistered(model).items()}
    return {k: [(t, t.detach().clone()) for t in ts] for k, ts in loose.items() if ts}


def not_in_the_state(model: nn.Module, before: Mapping[str, Sequence[tuple[Tensor, Tensor]]]) -> ReportWarning | None:
    """Warn of floating tensors, of any shape, that the state_dict does not hold; ``before``: ``floating_loose`` before
    a forward.

    What a forward writes itself is no weight.
    """
    now = unregistered(model)

    def stayed(name: str) -> bool:
        there = {id(t) for t in now.get(name, [])}
        return all(id(t) in there and same_bits(t.detach(), copy) for t, copy in before[name])

    names = [name for name in before if stayed(name)]
    if not names:
        return None
    return ReportWarning(
        name="unregistered_tensors",
        sentence=f"The model holds floating tensors that its state_dict does not: {listed(names)}. They are part of what "
        "was measured, and no saved checkpoint, export or weights digest has them. Constants that the constructor makes "
        "again may stay; weights belong in nn.Parameter, nn.ModuleList or register_buffer.",
    )


def not_pruned(paths: Sequence[str]) -> ReportWarning | None:
    """Warn of submodules at ``paths`` that were to be left out of replays, and that the model's answer needs."""
    if not paths:
        return None
    one = len(paths) == 1
    return ReportWarning(
        name="replay_not_pruned",
        sentence=f"{listed(paths)} {'seems' if one else 'seem'} to feed nothing but encoders, whose outputs are recorded, "
        f"yet without {'it' if one else 'them'} the model answers otherwise. So nothing was left out of what-if questions: "
        "the numbers hold, and take longer. Call submodules as `module(x)`, not by `.forward`, and let them hand on tensors "
        "only.",
    )


def samples_answers(adapter: Adapter, noise: float) -> ReportWarning | None:
    """Say that answers are means over seeds; ``noise``: by how much they still differ, in parts of the largest."""
    samples = adapter.config.model.samples
    if samples == 1:
        return None
    moved = (
        f"Two sets of seeds give answers of the first batch up to {noise:.2g} of the largest apart."
        if noise
        else "Yet other seeds give the same answers: `model.samples` costs time and changes nothing."
    )
    return ReportWarning(
        name="samples_answers",
        sentence=f"Each answer is the mean over {samples} seeds, as model.samples says. {moved} What is due to seeds alone "
        "is in the intervals (reliance.seed_noise): no verdict rests on less.",
    )


def copied_rows(split: str, found: Mapping[str, tuple[int, int]], examples: int) -> ReportWarning | None:
    """Warn of examples that another split has too.

    Args:
        split: that is diagnosed.
        found: by other split, how many examples of ``split`` it also has: by inputs, and by inputs and target.
        examples: how many ``split`` has.

    Returns:
        The warning; None where no other split has any of them.
    """
    told = [
        f"{same} of the {examples} examples of {quote(split)} {'is' if same == 1 else 'are'} also in {quote(other)} "
        f"({_alike(same, both)})"
        for other, (same, both) in found.items()
        if same
    ]
    if not told:
        return None
    return ReportWarning(
        name="copied_rows",
        sentence=f"{'; '.join(told)}. What is fitted there and scored here, readouts and baselines, and the model where it "
        "was trained on them, looks better than it is on new examples. Take copies out of one of the splits.",
    )


def _alike(same: int, both: int) -> str:
    """Of ``same`` copies, ``both`` have the target of what they copy."""
    if both == same:
        return "the same inputs and the same target"
    return f"the same inputs; {both} of them with the same target" if both else "the same inputs, but another target"
