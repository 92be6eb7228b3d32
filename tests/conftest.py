"""Fixtures over the synthetic problems of ``problems.py``."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

# Before NumPy is imported, here and in the processes that tests start. As in the command line.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A probe's error that nobody foresaw fails the test that meets it, here and in the processes that tests start.
os.environ.setdefault("COLLAPSEKIT_RAISE", "1")

import pytest
import torch
from hypothesis import settings
from jinja2 import Environment
from typer.main import get_command

from tests.problems import Problem, make_problem


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing that is imported becomes garbage, and to look for some takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What is loaded by now stays: looking through all of it takes a quarter of a second a collection, of which some
    libraries ask for one a call."""
    gc.collect()
    gc.freeze()


def _compile_once(compiled: Callable[..., object]) -> Callable[..., object]:
    """Jinja's compiler, which remembers what it made of a template, whichever environment asks."""
    known: dict[tuple[object, ...], object] = {}

    def compile_(environment: Environment, *template: object) -> object:
        if template not in known:
            known[template] = compiled(environment, *template)
        return known[template]

    return compile_


@pytest.fixture(scope="session", autouse=True)
def _no_waiting() -> Iterator[None]:
    """What would only take time, in every test's process: the same is done in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        # Power cuts are none of what is tested; that it is asked for, and when, is (test_files, test_interrupted).
        patch.setattr(os, "fsync", lambda _handle: None)
        # Typer makes all commands anew at each invocation, of whichever.
        patch.setattr("typer.testing._get_command", functools.cache(get_command))
        # The template of a page is compiled anew for each page.
        patch.setattr("jinja2.Environment.compile", _compile_once(Environment.compile))
        # torch.manual_seed has devices that are not there remember the seed, each time with a stack trace.
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available():
                patch.setattr(device, "manual_seed_all", lambda _seed: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_config_of_the_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What looks for a config from a test's folder upwards stops at the tests' own: as at a repository's root."""
    (tmp_path_factory.getbasetemp() / ".git").touch()


# A busy machine takes longer for an example: what has a limit counts the seconds it computes.
settings.register_profile("collapsekit", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)  # pytest --hypothesis-profile thorough
settings.load_profile("collapsekit")

# Small problems on a shared machine: more threads only wait for one another.
torch.set_num_threads(1)


@contextmanager
def joint_trained_briefly() -> Iterator[None]:
    """Joint networks train for ten epochs, not until nothing improves, and few random features of raw inputs are drawn: both
    take longer than all the rest of a quick diagnosis. How well they do is for test_synergy, test_raw, test_tasks and
    test_planted to say, which leave them as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("collapsekit.readouts.synergy.EPOCHS", 10)
        patch.setattr("collapsekit.readouts.synergy.STEPS", 1)
        patch.setattr("collapsekit.readouts.raw.FOURIER", 50)
        patch.setattr("collapsekit.readouts.raw.BANDWIDTHS", (1.0,))
        patch.setattr("collapsekit.readouts.raw.KERNELS", 16)
        yield


@contextmanager
def one_figure_drawn() -> Iterator[None]:
    """The first figure of a page stands for all, whose drawing takes longer than the rest of the page. That all are drawn
    and stand in a page is for the tests of rendering to say."""
    from collapsekit.render.figures import diagnosis, repair

    draw = repair.figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "FIGURES", {"reliance": diagnosis.FIGURES["reliance"]})
        patch.setattr(repair, "figures", lambda *given: list(draw(*given))[:1])
        yield


@pytest.fixture(scope="module")
def brief_joint() -> Iterator[None]:
    """Joint networks train briefly in all tests of a module."""
    with joint_trained_briefly():
        yield


@pytest.fixture
def brief_joint_here() -> Iterator[None]:
    """Joint networks train briefly in one test."""
    with joint_trained_briefly():
        yield


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    """Two modalities that both say something; audio is ignored by the model."""
    return make_problem(tmp_path, ignored=["audio"])
