"""The driver's half of judging: questions become tables of verdicts, in pieces that survive a kill.

`eval.xalpaca.pairwise`, `eval.mtbench.grade` and `eval.accuracy` ask; `eval.judges.answering` is what workers do. A
local model's label probabilities are read by all workers, an endpoint or a class of the user's is asked by one.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from eval.judges.answering import QUESTIONS, AskLocalTask, AskTask, load_verdicts
from eval.judges.open import Examiner, name_judge
from eval.judges.prompts import built_in, find_prompts
from eval.judges.question import Question, Verdict
from eval.judges.reading import TOO_LITTLE_ROOM
from eval.judges.wording import Prompts
from icr.base.errors import StageFailed, UserError
from icr.base.files import write_rows
from icr.config.schema import Judge as JudgeConfig
from icr.endpoint.ends import describe_ends
from icr.endpoint.reasons import may_pass
from icr.engines.templates import NO_THINKING, Template
from icr.work.crew import Limits
from icr.work.pool import Shard

if TYPE_CHECKING:
    from icr.work.machine import Machine

FINGERPRINT = b"icr.fingerprint"
PATIENT = Limits(floor=math.inf)
"""Of what may well take long after it was quick: an endpoint that answers from its cache at first, a large task."""
SHARD_SIZES = {"local": 32, "openai": 4096}
"""Questions to a piece: what a kill loses at most. Many for an endpoint, whose cache keeps what a kill takes."""
OWN_SHARD_SIZE = 256
EXAMPLE = 100
"""Characters of an answer that an error shows."""
AT_ONCE = 16_384
"""Questions to an endpoint at a time, of all languages: whatever is asked by itself ends with fewer requests under way
than there could be, and waits for the slowest answer."""

MakeRow = Callable[[int, Verdict], Mapping[str, object]]
"""(a question's number, its verdict) → a row of the benchmark's table."""


@dataclass(frozen=True)
class Sheet:
    """One language's questions of a benchmark, and the table that their verdicts become."""

    lang: str
    questions: Sequence[Question]
    points: Sequence[Sequence[float]]
    """Of each question, of each of its labels: what the running result is the mean of."""
    schema: pa.Schema
    row: MakeRow
    known: Mapping[int, Verdict] = field(default_factory=dict)
    """Verdicts that are known without asking, by question number."""

    @cached_property
    def dumped(self) -> list[str]:
        """The questions as JSON, made once: they are cut, sent and known by it."""
        return [question.dump() for question in self.questions]

    def path(self, folder: Path) -> Path:
        return folder / f"{self.lang}.parquet"


@dataclass(frozen=True)
class Judging:
    """Who judges one evaluation, and by which machine."""

    name: str
    task: AskTask | AskLocalTask
    shard_size: int
    machine: Machine
    key: str
    """Of all that verdicts depend on besides the questions; what is not finished is in folders of this name."""
    max_unscored: float = 1.0
    """Share of the questions that may stay without a verdict."""
    prompts: Mapping[str, Prompts] = field(default_factory=built_in)
    """What the judge is asked with, by benchmark."""
    at_once: float = 0
    """Pieces are asked together, of all languages, up to so many questions; a batch has all."""

    @classmethod
    def of(
        cls, config: JudgeConfig, model: str | None, machine: Machine, key: str, cache: Path, date: str | None = None
    ) -> Judging:
        """The judge that a config names.

        Args:
            model: a local judge's, as a folder or hub id.
            cache: where an endpoint's answers are kept.
            date: YYYY-MM-DD, what a local judge's chat template takes for today.

        Raises:
            UserError: as `name_judge`, `find_prompts` and `describe_ends`; several judges, of which each is asked by
                itself.
        """
        if config.judges:
            raise UserError("several judges cannot be asked as one", where="judge.judges",
                            do="name one of them in judge.kind and judge.model")  # fmt: skip
        for line in describe_ends(config):
            machine.note_once(line)
        name = name_judge(config)
        prompts = {benchmark: find_prompts(config, benchmark) for benchmark in built_in()}
        if config.kind != "local":
            task = AskTask(work=key, examiner=Examiner.of(config, cache))
            size = SHARD_SIZES.get(config.kind, OWN_SHARD_SIZE)
            at_once = (math.inf if config.batch else AT_ONCE) if config.kind == "openai" else 0
            return cls(name, task, size, machine, key, config.max_unscored, prompts, at_once)
        assert model is not None
        template = Template(arguments=NO_THINKING, date=date)
        local = AskLocalTask(work=key, model=model, template=template, precision="bf16" if machine.gpus else "fp32")
        return cls(name, local, SHARD_SIZES["local"], machine, key, config.max_unscored, prompts)

    def ask(self, folder: Path, sheets: Sequence[Sheet], label: str, shown: str, scale: float = 1.0) -> None:
        """Have sheets judged into `folder`/LANG.parquet, a row a question, in order.

        What an earlier, killed command has had judged is kept: whole languages, and pieces of the others. Verdicts on
        other questions or by another judge are not. A question that an endpoint did not answer is asked again.

        Args:
            label: of the progress; `shown`, with the mean of the points so far times `scale`, is beside it.

        Raises:
            UserError: an endpoint that cannot be used; nothing judged before is lost.
            TooManyUnscored: more questions than `max_unscored` are without a verdict.
            StageFailed: as `icr.work.shard_queue.run_shards`.
        """
        missing = [sheet for sheet in sheets if not _is_of(sheet.path(folder), self._fingerprint(sheet.dumped))]
        cut = {sheet.lang: self._cut(sheet) for sheet in missing}
        pieces = folder / "pieces"
        task = self.task.model_copy(update={"shown": shown, "scale": scale})
        every = [shard for shards in cut.values() for shard in shards]
        asked = list(_merge(every, self.at_once))
        found, _ = self.machine.fill(pieces / self.key[:16], task, asked, label, PATIENT)
        tables = _split(pa.concat_tables(found), every) if every else []
        judged = dict(zip((shard.name for shard in every), tables, strict=True))
        for sheet in missing:
            new = iter([v for shard in cut[sheet.lang] for v in load_verdicts(judged[shard.name])])
            rows = [
                sheet.row(n, sheet.known[n] if n in sheet.known else next(new)) for n in range(len(sheet.questions))
            ]
            fingerprint = {FINGERPRINT: self._fingerprint(sheet.dumped).encode()}
            write_rows(sheet.path(folder), rows, sheet.schema.with_metadata(fingerprint))
        shutil.rmtree(pieces, ignore_errors=True)
        self._check_unscored(folder, sheets, label)

    def _check_unscored(self, folder: Path, sheets: Sequence[Sheet], label: str) -> None:
        """Raises TooManyUnscored."""
        reasons: Counter[str] = Counter()
        raw: dict[str, str] = {}
        for sheet in sheets:
            for number, row in enumerate(pq.read_table(sheet.path(folder), columns=["reason", "raw"]).to_pylist()):
                if row["reason"] is not None and number not in sheet.known:
                    reasons[row["reason"]] += 1
                    raw.setdefault(row["reason"], row["raw"] or "")
        asked = sum(len(sheet.questions) - len(sheet.known) for sheet in sheets)
        if reasons.total() > self.max_unscored * asked:
            raise TooManyUnscored(label, asked, reasons, raw, self.max_unscored, str(folder))

    def close(self) -> None:
        """All is judged: what a class of the user's holds in memory is given back, by ending its process."""
        if self.task.lane == "asker":
            self.machine.pool.stop("asker")

    def _cut(self, sheet: Sheet) -> list[Shard]:
        """The questions that somebody has to be asked, in pieces that are named by what is in them."""
        asked = [n for n in range(len(sheet.questions)) if n not in sheet.known]
        shards = []
        for start in range(0, len(asked), self.shard_size):
            part = asked[start : start + self.shard_size]
            questions = [sheet.dumped[n] for n in part]
            rows = [
                {"id": sheet.questions[n].id, "lang": sheet.lang, "points": list(sheet.points[n]), "question": question}
                for n, question in zip(part, questions, strict=True)
            ]
            name = f"{sheet.lang}-{start // self.shard_size:05d}-{self._fingerprint(questions)[:16]}"
            shards.append(Shard(name, pa.Table.from_pylist(rows, schema=QUESTIONS)))
        return shards

    def _fingerprint(self, questions: Sequence[str]) -> str:
        """Says by whom and on what verdicts were made; a question has its template."""
        digest = hashlib.sha256(json.dumps([self.key, self.name]).encode())
        for question in questions:
            digest.update(question.encode())
        return digest.hexdigest()


def _merge(shards: Sequence[Shard], most: float) -> Iterator[Shard]:
    """Neighbours as one, as long as it has at most so many rows."""
    group: list[Shard] = []
    for shard in shards:
        if group and sum(other.table.num_rows for other in [*group, shard]) > most:
            yield _join(group)
            group = []
        group.append(shard)
    if group:
        yield _join(group)


def _join(shards: Sequence[Shard]) -> Shard:
    if len(shards) == 1:
        return shards[0]
    name = hashlib.sha256("\n".join(shard.name for shard in shards).encode()).hexdigest()
    return Shard(f"all-{name[:16]}", pa.concat_tables([shard.table for shard in shards]))


def _split(table: pa.Table, shards: Sequence[Shard]) -> list[pa.Table]:
    """The rows of each shard, of the table that came of them all."""
    starts = [0, *accumulate(shard.table.num_rows for shard in shards)]
    return [table.slice(start, shard.table.num_rows) for start, shard in zip(starts, shards, strict=False)]


def _is_of(path: Path, fingerprint: str) -> bool:
    """Whether a table has the verdicts on these questions, and none that another try may bring."""
    if not path.is_file() or (pq.read_schema(path).metadata or {}).get(FINGERPRINT) != fingerprint.encode():
        return False
    return not any(reason is not None and may_pass(reason) for reason in _reasons(path))


def has_failed(folder: Path) -> bool:
    """Whether a folder of verdicts lacks some that another try may bring."""
    return any(
        reason is not None and may_pass(reason) for path in folder.glob("*.parquet") for reason in _reasons(path)
    )


def _reasons(path: Path) -> list[str | None]:
    """Of each verdict of a table, why it is none."""
    found: list[str | None] = pq.read_table(path, columns=["reason"])["reason"].to_pylist()
    return found


class TooManyUnscored(StageFailed):
    """A benchmark whose questions stayed without a verdict more often than `judge.max_unscored` allows."""

    def __init__(
        self, label: str, asked: int, reasons: Counter[str], raw: Mapping[str, str], allowed: float, folder: str
    ) -> None:
        """`raw`: by reason, what the judge or its endpoint said to one of the questions."""
        lines = [f"  {count:>6,}  {reason}{_example(raw[reason])}" for reason, count in reasons.most_common()]
        again = sum(count for reason, count in reasons.items() if may_pass(reason))
        todo = [f"rerun the same command to ask {again:,} of them again"] if again else []
        if not reasons.keys().isdisjoint(TOO_LITTLE_ROOM):
            todo.append("give the judge more room (judge.verdict_tokens) or less to think (judge.reasoning_effort)")
        todo.append("set judge.max_unscored higher to have a result without them")
        super().__init__(
            f"{label}: {reasons.total():,} of {asked:,} questions have no verdict, more than {allowed:.0%}\n"
            + "\n".join(lines)
            + f"\n  where: {folder} (column `raw` has what the judge answered)\n  do:    {'; or '.join(todo)}"
        )


def _example(raw: str) -> str:
    """The beginning of what was said, in a line."""
    said = "".join(c for c in " ".join(raw[: 2 * EXAMPLE].split()) if c.isprintable())
    return f", such as: {said[:EXAMPLE]}{'…' if len(said) > EXAMPLE else ''}" if said else ""
