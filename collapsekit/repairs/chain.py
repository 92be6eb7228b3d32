"""One chain of methods, trained from the checkpoint on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapsekit import registry
from collapsekit.context import Options
from collapsekit.distributed.process_group import current
from collapsekit.repairs.folder import SNAPSHOTS
from collapsekit.repairs.request import RepairRequest
from collapsekit.repairs.training.behaviour import behaviour_of
from collapsekit.repairs.training.job import Job
from collapsekit.repairs.training.loop import train
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.diagnosis import Report
from collapsekit.report.repair import LossCurve
from collapsekit.session.subject import changed_weights, weights_by_name


class MethodChain:
    """One chain of methods, trained from the checkpoint on."""

    def __init__(
        self,
        request: RepairRequest,
        job: Job,
        data: str,
        methods: tuple[str, ...],
        options: Mapping[str, Options],
        before: Report,
        folder: Path,
    ) -> None:
        """``data``: a digest of the examples; ``before``: the diagnosis that the methods follow."""
        self.request, self.job, self.data, self.methods, self.options = request, job, data, methods, options
        self.base, self.folder, self.adapter = before.subject.sha256, folder, job.adapter
        self.curves, self.kept = list[LossCurve](), list[Snapshots]()
        self.changed: frozenset[str] = frozenset()  # names of the weights that are not as the checkpoint has them

    def train(self) -> None:
        """Train one method after the other, from the snapshots on where it is resumed."""
        request, how, job = self.request, self.request.options, self.job
        began = weights_by_name(job.adapter)
        behaviour = current().on_main(lambda: behaviour_of(job))
        for place, name in enumerate(self.methods):
            part = Snapshots(
                self.folder / SNAPSHOTS / "-".join(self.methods[: place + 1]),
                self._identity(place),
                behaviour,
                request.progress.note,
            )
            if not how.resume:
                part.clear()
            self.kept.append(part)
            here = job.at_place(place, self.options[name])
            stages = registry.get_repair(name).stages(here)
            shown = None if how.tensorboard is None else Path(how.tensorboard) / part.folder.name
            self.curves += train(stages, here, name, part, request.progress, shown)
        self.adapter.model.eval()
        self.changed = current().on_main(lambda: changed_weights(began, weights_by_name(job.adapter)))

    def _identity(self, place: int) -> dict[str, Any]:
        """By what snapshots of the method at this place of the chain are known."""
        options, how = self.options, self.request.options
        return {
            "base": self.base,
            "data": self.data,
            "methods": [[n, options[n].model_dump(mode="json")] for n in self.methods[: place + 1]],
            "training": how.training.model_dump(mode="json", exclude={"fsdp"}),  # which may change on the way
            "modalities": list(self.job.weak),
            "seed": how.seed,
            "profile": how.profile,  # with the diagnosis it decides what a method begins with
        }

    def clear(self) -> None:
        """Remove the snapshots."""
        for part in self.kept:
            part.clear()
        parent = self.kept[0].folder.parent
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
