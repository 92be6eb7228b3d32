"""The target `gate`: rules, baselines and records."""

from __future__ import annotations

import json
import random
from pathlib import Path

from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.gating.baseline import make_baseline, make_run
from collapsekit.gating.rules.evaluate import decide_rule
from collapsekit.report.baseline import Baseline
from collapsekit.report.per_example import PerExample
from tests.fuzz import mutate
from tests.fuzz.invariant import check_sentence
from tests.gating.making import make_records, make_report
from tests.resealing import resealed

_RULE, _BASELINE, _RECORDS = 0, 1, 2  # an input's first byte, modulo 3
USES = {"audio": 0.1, "image": 0.9}
REPORT = make_report(USES)
RULES = (
    b"modalities.audio.score <= 0.3",
    b"modalities.*.score.upper < 0.5 and verdict != collapsed",
    b"not (results[vif.mean] > 5 or results[cka, audio, image].lower >= -1e-3)",
    b"modalities.\"audio\".costs_if_missing.image == 0.1 or subject.task != 'regression'",
)
_TOKENS = (
    b"modalities results verdict subject . [ ] , * ( ) and or not <= < >= > == != ' \" audio score 0.3 -1e9".split()
)


def one(folder: Path, data: bytes) -> None:
    """Documented errors only, in one sentence; what is read is written and read again; what is not there never passes."""
    kind, body = data[0] % 3 if data else 0, data[1:]
    path = folder / "baseline.json"
    try:
        if kind == _RULE:
            _rule(body.decode("utf-8", "surrogateescape"))
        elif kind == _BASELINE:
            for text in (body, *_resealed(body)):
                _baseline(path, text)
        else:
            records = PerExample.from_bytes(body, str(path))
            assert PerExample.from_bytes(records.to_bytes(), "again").columns.keys() == records.columns.keys()
    except CollapsekitError as e:
        check_sentence(str(e), path)


def _resealed(body: bytes) -> list[bytes]:
    """The same with its digests made again, where it is JSON, so that what is behind them is reached."""
    try:
        return [resealed(Baseline, json.loads(body)).encode()]
    except (ValueError, RecursionError):
        return []


def _baseline(path: Path, body: bytes) -> None:
    path.write_bytes(body)
    try:
        text = Baseline.load(path).to_json()
    except CollapsekitError as e:
        check_sentence(str(e), path)
        return
    path.write_text(text)
    assert Baseline.load(path).to_json() == text


def _rule(text: str) -> None:
    found = decide_rule(text, REPORT)
    assert decide_rule(f"({text})", REPORT).state == found.state
    missing = decide_rule(f"({text}) or results[nothing] < 1", REPORT)
    assert missing.state == "inconclusive"
    try:
        turned = decide_rule(f"not ({text})", REPORT)
    except ConfigError:
        assert "*" in text or text.count("(") > 40 or len(text) > 1_900
        return
    contrary = {"passed": "failed", "failed": "passed", "inconclusive": "inconclusive"}
    assert turned.state == contrary[found.state] or "inconclusive" in (turned.state, found.state)


def inputs() -> list[bytes]:
    """One of each kind, and more rules."""
    report = make_report(USES, records=make_records(USES, 0.9, n=8), training_seed=1)
    baseline = make_baseline([make_run(report, report.records), make_run(make_report(USES, sha="b", examples=8), None)])
    plain = json.dumps(json.loads(baseline.to_json())).encode()
    return [*(b"\0" + rule for rule in RULES), b"\1" + plain, b"\2" + (report.records or b"")]


def changed(data: bytes, rng: random.Random, most: int, own: mutate.Mutate) -> bytes:
    """Tokens of rules put in and taken out, JSON kept JSON, bytes else."""
    kind, body = data[:1] or b"\0", data[1:]
    if kind[0] % 3 == _RULE and rng.random() < 0.8:
        at = rng.randrange(len(body) + 1)
        return (
            kind
            + (body[:at] + rng.choice((b"", b" ")) + rng.choice(_TOKENS) + body[at + rng.randrange(5) :])[: most - 1]
        )
    if kind[0] % 3 == _BASELINE and rng.random() < 0.8:
        return kind + mutate.json_text(body, rng, most - 1, own)
    return kind + own(body, most - 1)
