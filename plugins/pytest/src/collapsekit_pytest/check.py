"""assert_not_collapsed: a diagnosis, and an AssertionError where it finds what must not be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from collapsekit_pytest.message import failure

if TYPE_CHECKING:  # torch takes seconds to import, and pytest imports this at its start
    from torch import nn

    from collapsekit.ext import Config, DiagnoseKeywords, Report

    class Keywords(DiagnoseKeywords, total=False):
        """Options of ``collapsekit.diagnose``, and sections of the config."""

        modalities: Mapping[str, Any] | None
        fusion: str | None
        task: str | None


SECTIONS = ("modalities", "fusion", "task")


def assert_not_collapsed(
    model: nn.Module | str | Path,
    data: Mapping[str, Any] | str | Path | None = None,
    *,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    require: Collection[str] = (),
    allow_inconclusive: bool = False,
    diagnose: Callable[..., Report] | None = None,
    **options: Unpack[Keywords],
) -> Report:
    """Diagnose ``model`` on ``data`` and return the Report, or raise AssertionError with each modality's verdict and reason.

    ``model``: a live module, given back as it was, or the path of a checkpoint. ``data``: splits in memory (each a mapping
    of names to tensors, a DataLoader, a Dataset or another iterable of dict batches), the path of a file, or None for what
    the config names. ``modalities``, ``fusion``, ``task``: sections of the config, over those of ``config`` (a mapping, or
    the path of a collapsekit.yaml; default, without ``modalities``: the nearest one, in the working directory or above it
    in the repository). All other ``options`` go to ``collapsekit.diagnose``: split, limit, seed, device, cache and so on;
    ``profile`` is "quick" where none is named.
    ``diagnose``: what to call in its stead, as the fixture ``collapsekit_diagnose`` does to remember reports.

    It fails where a modality is ``collapsed``; where one is ``inconclusive``, unless ``allow_inconclusive``; and where one
    of ``require`` is not ``used``. Raises CollapsekitError, which is no AssertionError, where nothing could be diagnosed.
    """
    __tracebackhide__ = True
    required = [require] if isinstance(require, str) else list(require)
    options.setdefault("profile", "quick")
    report = (diagnose or diagnosed)(model, data, config=config, **options)
    _need_whole(report)
    said = failure(report, required, allow_inconclusive)
    if said is not None:
        raise AssertionError(said)
    return report


def _need_whole(report: Report) -> None:
    """Raises FaultError where an error ended a probe that verdicts rest on: ``allow_inconclusive`` is not for that."""
    __tracebackhide__ = True
    from collapsekit.ext import VERDICT_PROBES, FaultError

    for result in report.results:
        if result.error is not None and result.probe in VERDICT_PROBES:
            raise FaultError(
                f"nothing can be said of the model, because an error ended {result.probe}: {result.error}."
            )


def diagnosed(
    model: nn.Module | str | Path,
    data: Mapping[str, Any] | str | Path | None = None,
    *,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    **options: Unpack[Keywords],
) -> Report:
    """The Report of ``collapsekit.diagnose``, which see; arguments as ``assert_not_collapsed`` has them."""
    __tracebackhide__ = True
    import collapsekit

    path = model if isinstance(model, str | Path) else None
    live = None if isinstance(model, str | Path) else model
    sections, rest = split_sections(options)
    settled = config_of(path, config, sections)
    try:
        return collapsekit.diagnose(path, model=live, data=data, config=settled, **rest)
    except collapsekit.CollapsekitError as e:
        raise e.with_traceback(None) from None  # its sentence says it all; the way there is ours, not the test's


def split_sections(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those options that are sections of the config, and those that are of ``collapsekit.diagnose``."""
    sections = {name: value for name, value in options.items() if name in SECTIONS}
    return sections, {name: value for name, value in options.items() if name not in SECTIONS}


def config_of(
    checkpoint: str | Path | None,
    config: str | Path | Mapping[str, Any] | Config | None,
    sections: Mapping[str, Any],
) -> Config:
    """The config, its ``sections`` replaced by those given that are not None. Raises ConfigError."""
    from collapsekit.ext import check_config, settle_config

    given = {k: v for k, v in sections.items() if v is not None}
    if config is None and "modalities" in given:
        return check_config(given, base=Path.cwd(), origin="the arguments")
    settled = settle_config(config, checkpoint)
    if not given:
        return settled
    raw = settled.model_dump(exclude_unset=True)
    return check_config({**raw, **given}, base=settled.base, origin=settled.origin)
