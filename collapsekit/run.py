"""diagnose(): the only place that knows the whole order."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import collapsekit
from collapsekit import registry
from collapsekit.adapter import Adapter, ModuleAdapter
from collapsekit.adapter.build import model_kept, random_state_kept
from collapsekit.baseline_cache import cache_folder
from collapsekit.checkpoint.read import Checkpoint, read_checkpoint
from collapsekit.config import Config, check_config, find_config, load_config
from collapsekit.errors import ConfigError, NothingEvaluatedError, NumericsError, did_you_mean
from collapsekit.features import Features, extract
from collapsekit.imports import import_object
from collapsekit.in_memory import with_data
from collapsekit.probes.reliance import RelianceOptions, game_of
from collapsekit.probing import check_once, run_probe
from collapsekit.recording import records_of
from collapsekit.records import digest
from collapsekit.registry import Options, ProbeSpec
from collapsekit.repair_report import structure_of
from collapsekit.report import Report, Result, Subject
from collapsekit.settings import PROFILES, Profile, Progress, Settings
from collapsekit.sources import Source
from collapsekit.stats.threads import threads_for
from collapsekit.storage import BUDGET, Storage
from collapsekit.verdict import judge
from collapsekit.world import current

LEVEL = 0.95
SUBSETS = "growing"  # the probe that --subsets adds


def diagnose(
    checkpoint: str | Path | None = None,
    *,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    model: nn.Module | None = None,
    data: Mapping[str, Any] | str | Path | None = None,
    split: str | None = None,
    probes: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    profile: Profile = "standard",
    device: str = "cpu",
    seed: int = 0,
    limit: int | None = None,
    training_seed: int | None = None,
    subsets: bool = False,
    plugins: Sequence[str | Path] = (),
    trust_pickle: str | None = None,
    progress: Progress | None = None,
    cache: str | Path | None = None,
    memory: int | None = None,
) -> Report:
    """Diagnose a checkpoint (or a live ``model``) and return the Report; nothing is written but the cache.

    ``data`` takes the place of the config's data.path or data.factory: splits held in memory (each a mapping of names to
    tensors, a DataLoader, a Dataset or another iterable of dict batches), or the path of a file. ``options`` maps probe
    names to option values, as ``--set`` does; ``training_seed`` is the seed the model was trained
    with (default: the config's model.seed), by which the gate tells runs apart; ``subsets`` adds the probe ``growing``,
    which reads the models of the config's ``subsets`` section too; ``trust_pickle`` ("sha256:DIGEST") lets that very
    checkpoint be unpickled, which runs its code; ``cache`` is the folder of trained baselines (default: the user's
    cache folder); ``memory`` is how many bytes of inputs and features are kept in memory before more is mapped from files
    that vanish (default: 4 GiB), which changes no result. A live model is given back as it was found.
    Raises CollapsekitError for whatever the caller can mend.
    """
    _check_asked(profile, limit)
    settled, source = with_data(settle_config(config, checkpoint), data)
    registry.load_builtins()
    files = [registry.load_plugin_file(p) for p in [*(settled.resolve(p) for p in settled.plugins), *plugins]]
    chosen = choose_probes(probes, skip, files, also=[SUBSETS] if subsets else [])
    if any(spec.name == SUBSETS for spec in chosen):
        settled.need_subsets()
    all_options = check_options(options or {})
    # Probes train, whatever mode the caller's own loop is in.
    with random_state_kept(), torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as stack:
        if model is not None:
            stack.enter_context(model_kept(model))
        adapter = build_adapter(
            settled, checkpoint, model=model, source=source, device=device, seed=seed, trust=trust_pickle
        )
        if model is None:
            stack.enter_context(model_kept(adapter.model))
        stack.enter_context(threads_for(0))  # what is worth more says so
        where = _split(adapter.source, split)
        progress = progress or Progress()
        if said := _how_read(adapter.checkpoint).get("checkpoint"):
            progress.note(said)
        features = extract(
            adapter,
            where,
            limit=limit,
            seed=seed,
            progress=progress,
            storage=Storage(BUDGET if memory is None else memory),
        )
        kept = Path(cache) if cache is not None else cache_folder()
        base = Settings(seed=seed, level=LEVEL, profile=profile, progress=progress, cache=kept, others=all_options)
        results = _results(chosen, adapter, features, base)
        subject = _subject(adapter, features, where, seed)
        records = _records(adapter, features, base, {spec.name for spec in chosen})
    flags: dict[str, Any] = {"split": where, "seed": seed, "profile": profile, "device": device, "limit": limit}
    typed = {**flags, "training-seed": training_seed, "subsets": subsets or None, "trust-pickle": trust_pickle}
    settings = {
        "command": None
        if model is not None or data is not None
        else _command(subject.checkpoint, typed, probes or [], skip, plugins, options or {}),
        **flags,
        **_how_read(adapter.checkpoint),
        **_told_apart(settled.model.seed if training_seed is None else training_seed, features, records),
        "level": LEVEL,
        "probes": {s.name: all_options[s.name].model_dump(mode="json") for s in chosen},
        "config": settled.model_dump(mode="json", exclude_defaults=True),
    }
    return _report(subject, results, settings).with_records(records)


def _check_asked(profile: str, limit: int | None) -> None:
    if profile not in PROFILES:
        raise ConfigError(f"there is no profile {profile!r}{did_you_mean(profile, PROFILES)}: {', '.join(PROFILES)}.")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}, expected at least 1 example.")


def _results(chosen: Sequence[ProbeSpec], adapter: Adapter, features: Features, base: Settings) -> list[Result]:
    """What every chosen probe found, each told its own options."""
    found: dict[str, list[Result]] = {}
    # What trains comes first: the model's answers that it asks for, calibrated, include those the others need.
    for i, spec in enumerate(sorted(chosen, key=lambda s: s.trains == "nothing")):
        base.progress.step(f"probe {spec.name}", i, len(chosen))
        found[spec.name] = run_probe(spec, adapter, features, replace(base, options=base.others[spec.name]))
    given = [result for spec in chosen for result in found[spec.name]]
    check_once(given)
    return given


def _records(adapter: Adapter, features: Features, settings: Settings, ran: set[str]) -> bytes:
    """What is kept of each example; of subsets only where a probe asked for them, of the calibrated model's credit only
    with the probe that compares it with what is due."""
    options = settings.of("reliance", RelianceOptions)
    game = None
    if ran & {"reliance", "utilisation"}:
        with contextlib.suppress(NumericsError):  # too few examples: the probes say so
            game = game_of(adapter, features, options, settings)
    permutations = options.permutations if "utilisation" in ran else None
    return records_of(adapter, features, game, permutations, settings.seed).to_bytes()


def _told_apart(training_seed: int | None, features: Features, records: bytes) -> dict[str, Any]:
    """By what the gate knows a training run, the examples, and the file of records."""
    seed = {} if training_seed is None else {"training_seed": training_seed}
    return {**seed, "examples": features.digest, "records": digest(records)}


def _how_read(read: Checkpoint | None) -> dict[str, str]:
    """What of the checkpoint became the weights, and whether its code was run for it; nothing for a live model."""
    if read is None:
        return {}
    trust = {"trust_pickle": f"sha256:{read.sha256}"} if read.trusted else {}
    return {"checkpoint": f"{read.path.name}: {read.note}", **trust}


def _report(subject: Subject, results: list[Result], settings: dict[str, Any]) -> Report:
    if all(r.skipped is not None for r in results):
        why = next((r.skipped for r in results), "no probe was chosen")
        raise NothingEvaluatedError(f"no probe could evaluate anything: {why}.")
    overall, summary, verdicts = judge(results, subject.modalities, subject.metric)
    return Report(
        collapsekit=collapsekit.__version__,
        subject=subject,
        verdict=overall,
        summary=summary,
        modalities=verdicts,
        results=tuple(results),
        settings=settings,
        environment=_environment(),
    )


def _command(
    checkpoint: str,
    flags: Mapping[str, Any],
    probes: Sequence[str],
    skip: Sequence[str],
    plugins: Sequence[str | Path],
    options: Mapping[str, Mapping[str, Any]],
) -> str:
    """The command line that makes this report again, typed beside the config."""
    words = ["collapsekit", "diagnose", checkpoint]
    for name, value in flags.items():
        if value is not None and (name, value) != ("device", "cpu"):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    for flag, values in (("--probe", probes), ("--skip", skip), ("--plugin", plugins)):
        words += [w for value in values for w in (flag, str(value))]
    for probe, chosen in options.items():
        for option, value in chosen.items():
            words += ["--set", f"{probe}.{option}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def settle_config(config: str | Path | Mapping[str, Any] | Config | None, checkpoint: str | Path | None) -> Config:
    """The config as given, or as found beside the checkpoint or in the working directory."""
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return check_config(config, base=Path.cwd())
    return load_config(find_config(config, checkpoint))


def choose_probes(
    probes: Sequence[str] | None, skip: Sequence[str], files: Sequence[str] = (), also: Sequence[str] = ()
) -> list[ProbeSpec]:
    """The named probes, or all that run by default, and ``also``, less ``skip``, by name. Raises ConfigError for
    unknown ones.

    Of probes from plugin files only those of ``files`` (module names) count: an earlier call may have loaded others.
    """
    for name in skip:
        registry.get_probe(name)
    names = (
        list(dict.fromkeys(probes))
        if probes
        else [
            name
            for name, spec in registry.PROBES.items()
            if spec.default and (spec.run.__module__ in files or not spec.run.__module__.startswith(registry.FROM_FILE))
        ]
    )
    return [registry.get_probe(n) for n in sorted({*names, *also}) if n not in skip]


def check_options(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Options]:
    """Options of every probe, ``given`` ones checked. Raises ConfigError naming the option."""
    for name in given:
        registry.get_probe(name)
    return {n: registry.checked_options("probe", n, s.options, given.get(n, {})) for n, s in registry.PROBES.items()}


def build_adapter(
    config: Config,
    checkpoint: str | Path | None,
    *,
    model: nn.Module | None = None,
    source: Source | None = None,
    device: str = "cpu",
    seed: int = 0,
    trust: str | None = None,
) -> Adapter:
    """The adapter the config names, with the checkpoint's weights (the config's own where none is given).

    ``trust`` ("sha256:DIGEST") lets the checkpoint be unpickled, with classes importable from the config's folder.
    """
    device = current().device(device)
    check_device(device)
    path = Path(checkpoint) if checkpoint is not None else None
    if path is None and config.model.checkpoint is not None and model is None:
        path = config.resolve(config.model.checkpoint)
    if path is None and model is None:
        raise ConfigError(
            f"no checkpoint was given: name one on the command line or as model.checkpoint in {config.origin}."
        )
    read = read_checkpoint(path, trust=trust, folder=config.base) if path is not None else None
    if path is not None and not config.structure:
        config = config.model_copy(update={"structure": structure_of(path)})
    if model is not None and read is not None:
        model = copy.deepcopy(model)  # the caller's own weights stay what they are
    make: Any
    if config.adapter == "module":
        make = ModuleAdapter
    elif ":" in config.adapter:
        make = import_object(config.adapter, config.base, "adapter")
    else:
        make = registry.get_adapter(config.adapter).build
    built = make(config, checkpoint=read, model=model, source=source, device=device, seed=seed)
    if not isinstance(built, Adapter):
        raise ConfigError(f"adapter {config.adapter!r} gave {type(built).__name__}, expected a collapsekit.Adapter.")
    return built


def check_device(device: str) -> None:
    """Raises ConfigError where torch does not know or does not have the device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        first = str(e).strip().splitlines()[0]
        raise ConfigError(f"device {device!r} is not to be had here ({first}): use --device cpu.") from None


def _split(source: Source, wanted: str | None) -> str:
    there = source.splits()
    name = wanted or next((s for s in ("test", "val") if s in there), "test")
    source.need(name)
    return name


def _subject(adapter: Adapter, features: Features, split: str, seed: int) -> Subject:
    read: Checkpoint | None = adapter.checkpoint
    return Subject(
        checkpoint=read.path.name if read is not None else f"live {type(adapter.model).__name__}",
        sha256=read.sha256 if read is not None else _weights_digest(adapter.model),
        modalities=adapter.modalities,
        task=adapter.task.name,
        metric=adapter.task.metric_name,
        split=split,
        examples=len(features),
        seed=seed,
    )


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _environment() -> dict[str, Any]:
    """What ran it; no time, so that the same run gives the same bytes."""
    import numpy
    import scipy

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(terse=True),
        "threads": torch.get_num_threads(),
    }
