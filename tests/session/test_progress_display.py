"""Progress of calls from Python: nothing in scripts, a bar that is replaced in notebooks."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest

from collapsekit import ext
from collapsekit.context import Progress
from collapsekit.session.checks import check_call
from collapsekit.session.progress_display import NotebookProgress, notebook_display, shown_progress


class Screen:
    """Stands for IPython's display: what each output shows now."""

    def __init__(self) -> None:
        self.outputs: dict[str, dict[str, str]] = {}
        self.calls = 0

    def __call__(self, data: dict[str, str], *, raw: bool, display_id: str, update: bool) -> None:
        assert raw
        assert update == (display_id in self.outputs)
        self.outputs[display_id] = data
        self.calls += 1

    @property
    def now(self) -> dict[str, str]:
        (output,) = self.outputs.values()
        return output


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def in_notebook(monkeypatch: pytest.MonkeyPatch, kernel: object = object()) -> Screen:
    screen = Screen()
    shell = SimpleNamespace(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=screen))  # type: ignore[arg-type]
    return screen


def test_one_output_is_replaced_and_the_bar_is_gone_in_the_end() -> None:
    screen, clock = Screen(), Clock()
    bar = NotebookProgress(screen, clock)
    bar.announce("Config: a.yaml")
    for i in range(5):
        clock.now += 1
        bar.step("encoding", i, 5, "loss 0.5")
        assert f'value="{i}" max="5"' in screen.now["text/html"]
        assert f"encoding (loss 0.5) {i} of 5" in screen.now["text/plain"]
    bar.step("training", 1, 5, said="loss 0.4")
    assert "training (loss 0.4) 1 of 5" in screen.now["text/plain"]
    bar.note("A note.")
    bar.close()
    assert len(screen.outputs) == 1
    assert screen.now["text/plain"] == "Config: a.yaml\nA note."
    assert "progress" not in screen.now["text/html"]


def test_many_steps_are_few_updates() -> None:
    screen, clock = Screen(), Clock()
    bar = NotebookProgress(screen, clock)
    for i in range(1000):
        clock.now += 0.01
        bar.step("encoding", i, 1000)
    assert screen.calls <= 1000 * 0.01 / 0.2 + 2
    bar.step("training", 0, None)  # another thing is shown at once
    assert "training" in screen.now["text/html"]
    assert "<progress>" in screen.now["text/html"]


def test_nothing_that_is_said_acts() -> None:
    screen = Screen()
    bar = NotebookProgress(screen)
    bar.note("<script>alert(1)</script>\x1b[31m" * 50)
    bar.step("<img src=x>", 1, 0, "\u202e")
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign, assignment]
    parser.feed(screen.now["text/html"])
    assert set(tags) == {"div", "progress"}
    assert "\x1b" not in screen.now["text/plain"]


def test_few_sentences_stay() -> None:
    screen = Screen()
    bar = NotebookProgress(screen)
    for i in range(100):
        bar.note(f"note {i}.")
    assert len(screen.now["text/plain"].splitlines()) <= 8
    assert "note 99." in screen.now["text/plain"]


def test_a_notebook_gets_a_bar_that_ends_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = in_notebook(monkeypatch)

    def work() -> None:
        with shown_progress(None) as shown:
            shown.step("encoding", 1, 2)
            assert "progress" in screen.now["text/html"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert screen.now["text/html"] == ""


def test_nothing_is_shown_of_work_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = in_notebook(monkeypatch)
    with shown_progress(None):
        pass
    assert screen.calls == 0


def test_who_asks_for_none_or_brings_their_own_gets_that(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, own = in_notebook(monkeypatch), Progress()
    with shown_progress(False) as shown:
        shown.step("encoding", 1, 2)
        shown.announce("Config: a.yaml")
        assert type(shown) is Progress
    with shown_progress(own) as shown:
        assert shown is own
    assert screen.calls == 0


@pytest.mark.parametrize("choice", [True, 3, print])
def test_what_is_no_progress_is_refused(choice: Any) -> None:
    with pytest.raises(ext.ConfigError, match="or False for none"), shown_progress(choice) as shown:
        check_call(SimpleNamespace(trust_pickle=None), checkpoint=None, config=None, progress=shown)  # type: ignore[arg-type]


def test_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    in_notebook(monkeypatch, kernel=None)
    assert notebook_display() is None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))  # type: ignore[arg-type]
    assert notebook_display() is None


def test_a_script_imports_no_ipython() -> None:
    program = (
        "import sys; from collapsekit.session.progress_display import shown_progress\n"
        "with shown_progress(None) as p:\n    p.step('a', 1, 2); p.announce('b')\n"
        "print('IPython' in sys.modules, type(p).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("False Progress\n", "")
