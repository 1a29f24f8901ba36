"""The judge engine: pairs of answers become verdicts, both orders each, in pieces that survive a kill.

A judge is anything with the shape of `Judge`: `eval.local` reads a local model's label probabilities,
`eval.endpoint` asks an OpenAI-compatible endpoint. `eval.summary` turns the verdicts into rates.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.answers import Answer, Baseline, read_answers
from icr.config import Judge as JudgeConfig
from icr.errors import UserError
from icr.files import read_rows, write_rows
from icr.languages import english_name
from icr.progress import Reporter

LABELS = ("A", "B")
Order = Literal["policy-first", "baseline-first"]
FINGERPRINT = b"icr.fingerprint"

VERDICTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("order", pa.string()),
        ("preference", pa.float64()),  # of the policy, 0 to 1; null when unscored
        ("reason", pa.string()),  # null, or why there is no preference
        ("raw", pa.string()),
        ("shortened", pa.bool_()),  # an answer was cut to fit the judge's context
    ]
)


@dataclass(frozen=True)
class Comparison:
    """Two answers to one instruction, in the order in which the judge sees them."""

    id: str
    lang: str
    instruction: str
    first: str
    second: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a `Comparison`: a preference, or the reason why there is none."""

    preference_of_first: float | None
    """0 to 1; None when unscored."""
    reason: str | None = None
    """Why it is unscored: one of few kinds, which are counted. What exactly happened stands in `raw`."""
    raw: str = ""
    """What the judge answered, for people to look up."""
    shortened: bool = False


class Judge(Protocol):
    name: str
    """Kind and model. Verdicts under another name are made anew."""
    shard_size: int
    """Comparisons to a piece: what a kill loses at most, and what `compare` is given at a time."""

    def compare(self, comparisons: Sequence[Comparison], done: Callable[[int], None]) -> list[Verdict]:
        """One verdict per comparison, in order; `done(k)` is called when k more of them are ready."""


def open_judge(config: JudgeConfig, cache: Path, reporter: Reporter, folder: str = "") -> Judge:
    """The judge that the config names.

    Args:
        config: the `judge` section; its kind is not `none`.
        folder: where the local judge's model lies, when it has been made a folder already.
        cache: sqlite file in which an endpoint's answers are kept; made when absent.

    Raises:
        UserError: no model named, the model cannot be loaded, or there is no key for the endpoint.
    """
    if not config.model:
        raise UserError("no judge model is named", where="judge.model", do="name the model that judges")
    if config.kind == "local":
        from eval.local import LocalJudge

        return LocalJudge.load(folder or config.model, config.model)
    from eval.endpoint import EndpointJudge

    return EndpointJudge(
        config.model, cache, base_url=config.base_url, concurrency=config.concurrency, reporter=reporter
    )


def template() -> str:
    return files("prompts").joinpath("judge_pairwise.txt").read_text(encoding="utf-8")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put `values` in place of {name}, in one pass: what is put in is never searched and may hold "{name}" itself."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)


def judge_prompt(comparison: Comparison, labels: tuple[str, str] = LABELS) -> str:
    """The question to the judge.

    The fence that sets the material apart is a hash of the material: no answer can hold its own fence and so pretend
    to end early. It is the same in both orders.
    """
    material = [comparison.instruction, *sorted((comparison.first, comparison.second))]
    return fill(
        template(),
        {
            "language": english_name(comparison.lang),
            "fence": hashlib.sha256(json.dumps(material).encode()).hexdigest()[:6],
            "instruction": comparison.instruction,
            "label_first": labels[0],
            "label_second": labels[1],
            "first": comparison.first,
            "second": comparison.second,
        },
    )


def label_preference(first_logp: float, second_logp: float) -> float:
    """The preference of the first answer by its label's share: P(A) / (P(A) + P(B)).

    Args:
        first_logp, second_logp: log-probs of the two labels in nats; one of them may be -inf.
    """
    return float(np.exp(first_logp - np.logaddexp(first_logp, second_logp)))


def run_verdicts(judge: Judge, answers: Path, baseline: Baseline, out: Path, reporter: Reporter) -> None:
    """Judge the policy's answers against the baseline's: `out`/verdicts/LANG.parquet, rows of `VERDICTS`.

    What an earlier, killed run has judged is kept: finished pieces lie in `out`/verdicts/pieces. Verdicts on other
    answers, by another judge or another judge prompt are made anew.

    Args:
        answers: folder of the policy's LANG.parquet.
        baseline: what `eval.answers.load_baseline` returns for these answers.

    Raises:
        UserError: no answers, or an endpoint that cannot be used (nothing judged before is lost).
    """
    work = {lang: _comparisons(lang, rows, baseline[lang]) for lang, rows in read_answers(answers).items()}
    count = _Count(reporter, sum(map(len, work.values())))
    for lang, pairs in work.items():
        _judge_language(judge, pairs, out / "verdicts", lang, count)
    shutil.rmtree(out / "verdicts" / "pieces", ignore_errors=True)


class _Count:
    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total, self._done = reporter, total, 0
        reporter.progress(0, total)

    def add(self, more: int) -> None:
        self._done += more
        self._reporter.progress(self._done, self._total)


_Pair = tuple[Order, Comparison]


def _comparisons(lang: str, answers: Sequence[Answer], baseline: Mapping[str, str]) -> list[_Pair]:
    """Both orders of every item, side by side."""
    pairs: list[_Pair] = []
    for a in answers:
        other = baseline[a.id]
        pairs.append(("policy-first", Comparison(a.id, lang, a.instruction, a.text, other)))
        pairs.append(("baseline-first", Comparison(a.id, lang, a.instruction, other, a.text)))
    return pairs


def _judge_language(judge: Judge, pairs: list[_Pair], folder: Path, lang: str, count: _Count) -> None:
    whole = folder / f"{lang}.parquet"
    fingerprint = _fingerprint(judge, pairs)
    if _is_of(whole, fingerprint):
        count.add(len(pairs))
        return
    pieces = []
    for start in range(0, len(pairs), judge.shard_size):
        piece = folder / "pieces" / f"{lang}-{start // judge.shard_size:05d}.parquet"
        _judge_piece(judge, pairs[start : start + judge.shard_size], piece, count)
        pieces.append(piece)
    rows = [row for piece in pieces for row in read_rows(piece)]
    write_rows(whole, rows, VERDICTS.with_metadata({FINGERPRINT: fingerprint}))


def _judge_piece(judge: Judge, pairs: list[_Pair], path: Path, count: _Count) -> None:
    fingerprint = _fingerprint(judge, pairs)
    if _is_of(path, fingerprint):
        count.add(len(pairs))
        return
    verdicts = judge.compare([comparison for _, comparison in pairs], count.add)
    rows = [
        {
            "prompt_id": comparison.id,
            "order": order,
            "preference": _policy_preference(order, verdict),
            "reason": verdict.reason,
            "raw": verdict.raw,
            "shortened": verdict.shortened,
        }
        for (order, comparison), verdict in zip(pairs, verdicts, strict=True)
    ]
    write_rows(path, rows, VERDICTS.with_metadata({FINGERPRINT: fingerprint}))


def _policy_preference(order: Order, verdict: Verdict) -> float | None:
    first = verdict.preference_of_first
    return first if first is None or order == "policy-first" else 1.0 - first


def _fingerprint(judge: Judge, pairs: list[_Pair]) -> bytes:
    """Says by whom, with which question and on what a file of verdicts was made."""
    digest = hashlib.sha256(json.dumps([judge.name, template()]).encode())
    for order, c in pairs:
        digest.update(json.dumps([order, c.id, c.lang, c.instruction, c.first, c.second]).encode())
    return digest.hexdigest().encode()


def _is_of(path: Path, fingerprint: bytes) -> bool:
    return path.is_file() and (pq.read_schema(path).metadata or {}).get(FINGERPRINT) == fingerprint
