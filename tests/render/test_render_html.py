from __future__ import annotations

import base64
import hashlib
import re
import struct
from functools import cache, cached_property
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browsing import browse, chromium
from sample_reports import MakeReport

from collapsekit.render import write
from collapsekit.render.numbers import fmt_estimate, fmt_parts
from collapsekit.render.views._results import points
from collapsekit.render.writers import html
from collapsekit.report.diagnosis import Report
from collapsekit.report.names import cleaned, short_name

Page = tuple[Report, str]

ACTIVE = {"script", "link", "iframe", "object", "embed", "form", "input", "base", "img", "image", "foreignobject"}
VOID = {"meta", "wbr", "link", "br", "hr", "img", "input"}


class Reader(HTMLParser):
    """Checks that tags balance; keeps tags, attributes and the text a person sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    @cached_property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


@cache
def read(text: str) -> Reader:
    """A page's reader, which reads it once for all tests."""
    return Reader(text)


def test_page_is_balanced_and_inert(page: Page) -> None:
    _, text = page
    reader = read(text)
    for page_tag in ("html", "head", "meta", "style", "body", "header", "main", "footer", "section", "article"):
        assert page_tag in reader.tags
    assert not set(reader.tags) & ACTIVE
    assert not [a for a in reader.attributes if a[1].startswith("on") or a[1] in ("src", "srcset", "action")]
    links = [v for _, k, v in reader.attributes if k in ("href", "xlink:href")]
    assert links
    assert all(v.startswith("#") for v in links)
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    assert "@import" not in text


def test_policy_lets_nothing_load_or_run_and_no_style_sheet_but_ours(page: Page) -> None:
    _, text = page
    policies = [v for tag, k, v in read(text).attributes if tag == "meta" and k == "content" and "default-src" in v]
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    sheets = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(sheets) == 1
    assert sheets[0] == (Path(html.__file__).parent / "style.css").read_text(encoding="utf-8")
    ours = base64.b64encode(hashlib.sha256(sheets[0].encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",  # read only where the next two are not known
        "style-src-elem": f"'sha256-{ours}'",
        "style-src-attr": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert text.index("Content-Security-Policy") < text.index("<style>")  # a policy counts from where it stands


def test_ids_are_unique_and_links_land(page: Page) -> None:
    reader = read(page[1])
    ids = [v for _, k, v in reader.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    targets = {v[1:] for _, k, v in reader.attributes if k == "href"} | set(re.findall(r"url\(#([\w-]+)\)", page[1]))
    assert targets <= set(ids)


def test_figures_have_a_name_for_those_who_do_not_see_them(page: Page) -> None:
    reader = read(page[1])
    named = [(k, v) for tag, k, v in reader.attributes if tag == "svg" and k in ("role", "aria-label")]
    assert reader.tags.count("svg") >= 8
    assert [v for k, v in named if k == "role"] == ["img"] * reader.tags.count("svg")
    assert all(v for k, v in named if k == "aria-label")


def test_every_result_is_there(page: Page) -> None:
    report, text = page
    seen = read(text).text
    for r in cleaned(report).results:
        assert short_name(r) in seen
        for part in (r.name, r.definition, r.source, r.note, r.skipped):
            assert part is None or " ".join(part.split()) in seen
        if r.value is not None:
            assert fmt_estimate(r.value, r.interval) in seen
        if r.curve is not None:
            assert all(" ".join(fmt_parts(y, ends)).rstrip() in seen for _, y, ends in points(r))


def test_names_and_settings_are_shown_as_text(page: Page) -> None:
    report, text = page
    seen = read(text).text
    for name, verdict in cleaned(report).modalities.items():
        assert " ".join(name.split()) in seen
        assert verdict.reason in seen
    assert "<script" not in text
    assert "[0.0, 0.5, 1.0]" in seen
    assert report.subject.sha256 in seen
    assert "2.10.0" in seen


def test_same_report_same_bytes(make_report: MakeReport) -> None:
    report = make_report()
    few = report.model_copy(update={"results": tuple(r for r in report.results if r.probe in ("reliance", "vif"))})
    text = write(few, "html")
    assert text.count("<svg") >= 2
    assert write(few, "html") == text


def test_a_report_without_results(bare: Report) -> None:
    seen = Reader(write(bare, "html")).text
    assert "needs 2·d = 128" in seen
    assert "No score could be had" in seen


def test_contrast_of_text_in_both_schemes() -> None:
    css = (Path(html.__file__).parent / "style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\n\s*\}", css, re.DOTALL)[:2]
    for scheme in (light, dark):
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        for name in ("ink", "muted", "link", "bad", "warn", "good", "open", "calm"):
            for ground in ("paper", "raised", "wash"):
                assert _contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        for i in range(1, 7):
            assert _contrast(colors[f"series-{i}"], colors["paper"]) >= 3


def _contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


WIDTHS = (1280, 390)
# Frames of the widths in question, in a page of ours: the report itself holds no script.
WRAPPER = """<!doctype html><body style="margin:0"><pre id="out"></pre>
{frames}
<script>
addEventListener("load", () => {{
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument;
    for (const d of page.querySelectorAll("details")) d.open = true;
    const root = page.documentElement;
    out.textContent += `${{root.clientWidth}}:${{root.scrollWidth}}:${{page.body.scrollWidth}};`;
  }}
}});
</script>"""


def test_page_never_scrolls_sideways(page: Page, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page[1], encoding="utf-8")
    frames = "\n".join(f'<iframe src="report.html" style="width:{w}px;height:900px;border:0"></iframe>' for w in WIDTHS)
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(WRAPPER.format(frames=frames), encoding="utf-8")
    dom = chromium(tmp_path, "--virtual-time-budget=10000", "--dump-dom", wrapper.as_uri())
    measured = re.findall(r"(\d+):(\d+):(\d+);", dom)
    assert [int(m[0]) for m in measured] == list(WIDTHS)
    for client, root, body in measured:
        assert int(root) <= int(client)
        assert int(body) <= int(client)


@pytest.mark.parametrize("width", WIDTHS)
def test_screenshot(make_report: MakeReport, page: Page, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(page[1], encoding="utf-8")
    # Headless windows are at least 500 pixels wide; a frame can be as narrow as a phone.
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f'<body style="margin:0"><iframe src="report.html" style="width:{width}px;height:1600px;border:0">',
        encoding="utf-8",
    )
    shot = tmp_path / "shot.png"
    chromium(tmp_path, f"--window-size={max(width, 500)},1600", f"--screenshot={shot}", wrapper.as_uri())
    data = shot.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (max(width, 500), 1600)
    assert len(data) > 20_000  # a blank page compresses to far less


# What a hole in the escaping would let in: each leaves its mark on the page's title or its first heading.
INJECTED = """<main class="page">
<script>document.title += " script"</script>
<img src="data:," onerror="document.title += ' handler'">
<style>h1 { display: none }</style>
<svg><style>h1 { visibility: hidden }</style></svg>
<link rel="stylesheet" href="data:text/css,h1{opacity:0}">
<base href="http://evil.example/">
"""
# A page around it reads what became of it, since the policy lets the page itself run nothing.
WITNESS = """<!doctype html><body><iframe id="report" src="report.html"></iframe>
<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.getElementById("report").contentDocument;
  const seen = getComputedStyle(page.querySelector("h1"));
  const card = getComputedStyle(page.querySelector("svg [style]"));
  document.title = [page.title, seen.display, seen.visibility, seen.opacity, page.baseURI, card.fill].join("|");
}, 500));
</script>"""


def _witness(text: str, folder: Path) -> tuple[list[str], list[str]]:
    """What the injected parts did, and the browser's complaints of the policy."""
    folder.mkdir()
    (folder / "report.html").write_text(text, encoding="utf-8")
    (folder / "witness.html").write_text(WITNESS, encoding="utf-8")
    address = (folder / "witness.html").as_uri()
    done = browse(folder, "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", address)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stdout[:500]
    told = [line for line in done.stderr.splitlines() if "Content Security Policy" in line]
    return unescape(title[1]).split("|"), told


def test_in_a_browser_nothing_of_ours_is_blocked_and_nothing_injected_acts(page: Page, tmp_path: Path) -> None:
    report, text = page
    if len(report.modalities) != 2:
        return  # the policy is the same, and a browser takes seconds
    assert text.count('<main class="page">') == 1
    clean, told = _witness(text, tmp_path / "clean")
    assert told == []
    assert clean[1:4] == ["block", "visible", "1"]
    hurt = text.replace('<main class="page">', INJECTED)
    title, *seen, base, fill = _witness(hurt, tmp_path / "hurt")[0]
    assert [title, *seen] == clean[:4]
    assert "evil" not in base
    assert fill == clean[5]
    # Without the policy each of them acts, so what is above was the policy's doing.
    open_page = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", hurt)
    assert open_page != hurt
    title, display, visibility, opacity, base, _ = _witness(open_page, tmp_path / "open")[0]
    assert "script" in title
    assert "handler" in title
    assert (display, visibility, opacity) == ("none", "hidden", "0")
    assert "evil" in base
