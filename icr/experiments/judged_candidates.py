"""What a judge says of all candidates, so that the expected win rate of the best of k follows for every k and reward.

Each candidate is compared with the baseline's answer, by default the first candidate: the model's own answer. It is
asked once; a reward only says in which order the candidates count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from eval.best_of_k import Scores, summarise_wins
from eval.estimate import Expected, Planned, expect_cost
from eval.judges.asking import Judging
from eval.judges.prompts import find_prompts
from eval.reward_models.judged import JudgeRow, find_judge
from eval.xalpaca.answers import Answer, Baseline, load_baseline, write_answers
from eval.xalpaca.items import read_items
from eval.xalpaca.pairwise import comparisons, run_verdicts
from icr.base.conversation import load_conversation
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows
from icr.base.problems import Collector
from icr.config.best_of_n import BestOfNConfig
from icr.endpoint.prices import BYTES_PER_TOKEN
from prompts.load import Prompt

SAMPLES = "samples"
"""In a command's folder: that of the candidates."""
FIRST = "the first candidates"
"""What the baseline is called where none is named."""


class Candidate(TypedDict):
    """Those columns of a candidate that are looked at."""

    prompt_id: str
    sample: int
    prompt: str
    response: str
    finish_reason: str


Prompts = Mapping[str, Sequence[Candidate]]
"""Prompt id → its candidates in order."""


def judge_candidates(
    judging: Judging, samples: Path, languages: Sequence[str], baseline: Path | None, folder: Path, orders: str
) -> dict[str, dict[str, list[float | None]]]:
    """Language → prompt id → the judge's preference for each candidate over the baseline's answer, from 0 to 1.

    Candidates of one text are asked about once, and the baseline's own text is a draw unasked. None: a verdict is
    missing. What was asked before is not asked again.

    Args:
        samples: folder of LANG.parquet, the candidates.
        baseline: as `load_baseline` takes it; None: the first candidates.
        folder: gets the answers that are compared, and verdicts/LANG.parquet.
        orders: `both` or `seeded`, see `run_verdicts`.

    Raises:
        UserError, TooManyUnscored, StageFailed: as `Judging.ask`; a baseline that does not cover the prompts.
    """
    rows = {lang: _read(samples / f"{lang}.parquet") for lang in languages}
    asked, against = _compare(rows, baseline)
    write_answers(asked, folder / "answers")
    run_verdicts(judging, folder / "answers", against, folder, orders)
    judging.close()
    return {lang: _wins(folder / "verdicts" / f"{lang}.parquet", prompts) for lang, prompts in rows.items()}


def _compare(rows: Mapping[str, Prompts], baseline: Path | None) -> tuple[dict[str, list[Answer]], Baseline]:
    """By language, each different candidate of a prompt once, and what it is compared with."""
    firsts = {lang: [_answer(of[0], id) for id, of in prompts.items()] for lang, prompts in rows.items()}
    given = (
        load_baseline(baseline, firsts, key="--baseline")
        if baseline
        else {lang: {a.id: a.text for a in of} for lang, of in firsts.items()}
    )
    asked, against = dict[str, list[Answer]](), Baseline()
    for lang, prompts in rows.items():
        keys = {id: _different(of) for id, of in prompts.items()}
        asked[lang] = [_answer(of[place], _key(id, place)) for id, of in prompts.items() for place in keys[id].values()]
        against[lang] = {_key(id, place): given[lang][id] for id in prompts for place in keys[id].values()}
    return asked, against


def estimate_judges(of: CandidateJudges, config: BestOfNConfig, prompts: Sequence[Prompt], out: Path) -> list[Expected]:
    """What each judge would be asked about the candidates, and what it costs. Nothing is sent.

    Candidates that are not sampled yet count as all different and as long as they may get.
    """
    languages, samples = config.prompts.languages, out / SAMPLES
    there = all((samples / f"{lang}.parquet").is_file() for lang in languages)
    rows = {lang: _read(samples / f"{lang}.parquet") if there else _expect(config, prompts, lang) for lang in languages}
    asked, against = _compare(rows, of.baseline)
    assumed = "" if there else f"; assuming candidates of {config.sampling.max_tokens:,} tokens, no two of them alike"
    found = []
    for judge in of.judges:
        wording = find_prompts(judge.config, judge.benchmark).one
        pairs = [comparisons(lang, answers, against[lang], judge.config.orders) for lang, answers in asked.items()]
        questions = [c.question(wording) for pair in pairs for _, c in pair if c.first != c.second]
        planned = Planned(questions, assumed, {lang: len(answers) for lang, answers in asked.items()})
        found.append(expect_cost(judge.config, judge.name, judge.cache(out), planned))
    return found


def _expect(config: BestOfNConfig, prompts: Sequence[Prompt], lang: str) -> Prompts:
    """Candidates that are as long as they may get."""
    longest = config.sampling.max_tokens * BYTES_PER_TOKEN
    return {
        prompt.id: [
            Candidate(prompt_id=prompt.id, sample=n, prompt=prompt.text, response=str(n).ljust(longest, "x"),
                      finish_reason="length")
            for n in range(config.sampling.n)
        ]
        for prompt in prompts if prompt.lang == lang
    }  # fmt: skip


def _read(file: Path) -> Prompts:
    """Prompt id → its candidates in order."""
    rows: list[Candidate] = read_rows(file, list(Candidate.__annotations__))
    found: dict[str, list[Candidate]] = {}
    for row in sorted(rows, key=lambda row: row["sample"]):  # stable: the prompts stay in their order
        found.setdefault(row["prompt_id"], []).append(row)
    return found


def _different(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Each different text → the place of the first candidate that has it."""
    found: dict[str, int] = {}
    for place, row in enumerate(candidates):
        found.setdefault(row["response"], place)
    return found


def _key(id: str, place: int) -> str:
    return f"{id}#{place}"


def _answer(row: Candidate, id: str) -> Answer:
    return Answer(id, load_conversation(row["prompt"]), row["response"], row["finish_reason"] == "length")


def _wins(verdicts: Path, prompts: Prompts) -> dict[str, list[float | None]]:
    preferences = read_items(read_rows(verdicts)).preferences
    return {
        id: [preferences.get(_key(id, places[row["response"]])) for row in of]
        for id, of in prompts.items()
        for places in [_different(of)]
    }


@dataclass(frozen=True)
class CandidateJudges:
    """The judges of one command."""

    judges: Sequence[JudgeRow] = ()
    baseline: Path | None = None
    """Folder of answers that candidates are compared with; None: the first candidates."""

    @property
    def models(self) -> set[str]:
        """Local ones, located."""
        return {model for judge in self.judges for model in judge.located.values()}


NO_JUDGES = CandidateJudges()


def find_judges(given: Sequence[str], overrides: Sequence[str], baseline: Path | None) -> CandidateJudges:
    """The judges of `--judge`.

    Raises:
        ConfigError, UserError: everything that is wrong with them; a baseline or settings without a judge.
    """
    if not given and (overrides or baseline):
        where = "--baseline" if baseline else "--set"
        raise UserError(
            "this option is for judges, and no judge is named",
            where=where,
            do="name a judge with --judge, or leave it out",
        )
    found = Collector()
    read = [found.attempt(None, find_judge, one, overrides, "xalpaca") for one in given]
    judges = [judge for judge in read if judge is not None]
    names = [judge.name for judge in judges]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        do = "name each judge once, and give models of one name folders of other names"
        found.add(f"two judges are called {', '.join(twice)}", where="--judge", do=do)
    if baseline is not None and not baseline.is_dir():
        do = "name a folder of LANG.json or LANG.jsonl, or leave it out: the first candidates"
        found.add(f"folder {baseline} not found", where="--baseline", do=do)
    found.raise_any()
    return CandidateJudges(judges, baseline)


def describe_wins(scores: Scores, wins: Scores, n: int, k: int) -> Fields:
    """What win_rates.json has of one judge: `unscored` candidates by language, and a row for each k in `best_of_k`."""
    unscored = {lang: sum(value is None for of in prompts.values() for value in of) for lang, prompts in wins.items()}
    return {"unscored": unscored, "best_of_k": summarise_wins(scores, wins, n, k)}
