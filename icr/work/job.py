"""What a worker process is asked to do: a typed file that the controller writes and `icr.commands.worker` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel

from icr.base.rundir import RoundDir, RunDir
from icr.config.schema import Config
from icr.engines.precision import Precision
from icr.work.shards import Shards
from prompts.load import Prompt, load_heldout, load_prompts

Task = Literal[
    "prepare",
    "alignment",
    "sample",
    "answers",
    "translate",
    "logps",
    "classify",
    "custom",
    "requests",
    "verdicts",
    "agreement",
    "mtbench-answers",
    "mtbench-verdicts",
    "nlp",
]


class Translation(NamedTuple):
    """Responses to have translated: those to one prompt in `lang`, into `target`."""

    prompt_id: str
    lang: str
    target: str


class Pass(BaseModel):
    """The round's responses measured once; the numbers go to shards in rewards/shards/NAME."""

    name: str
    model: str
    """A folder or hub id; empty for a user's own reward."""
    precision: Precision
    only: list[tuple[str, str]] | None = None
    """Score the responses to these (prompt id, language) alone."""
    folder: str = ""
    """Where the numbers go in place of rewards/shards/NAME, when several runs share them."""


class Job(BaseModel):
    """One task of one stage; worker `index` of `of` takes its share of the shards."""

    task: Task
    config: Config
    run: str
    round: int
    out: str = ""
    """Where an evaluation lies that belongs to no round; else in the round's judge folder."""
    of: int = 1
    model: str = ""
    """The model that the task loads, as a folder or hub id."""
    models: list[str] = []
    """prepare: models to turn into folders."""
    passes: list[Pass] = []
    """logps, classify, custom: what to measure, one after the other."""
    directions: list[tuple[str, str]] = []
    """translate: from which language into which."""
    shared: str = ""
    """translate: where the translations go when several runs share them."""
    samples: list[int] = []
    """translate: the responses of these numbers; all, where it is empty."""
    precision: Precision = "fp32"
    """requests: of the model's weights and forward pass."""
    pairs: str = ""
    """requests: the pairs whose sequences the training reference scores. alignment: where the pairs go."""

    @property
    def folder(self) -> RoundDir:
        return RunDir(Path(self.run)).round(self.round)

    @property
    def evaluation(self) -> Path:
        """Where what a judge says of `model` lies."""
        return Path(self.out) if self.out else self.folder.judge

    def prompts(self) -> list[Prompt]:
        config = self.config
        return load_prompts(config.prompts.path, config.prompts.languages, limit=config.prompts.limit)

    def heldout(self, every: bool = False) -> list[Prompt]:
        """The prompts to be judged on; `every`: the ones beyond `judge.limit`, too."""
        judge = self.config.judge
        assert judge.prompts is not None
        return load_heldout(judge.prompts, self.config.prompts.languages, None if every else judge.limit)

    def baseline(self) -> Path:
        """The folder of answers that the policy's are compared with."""
        name = self.config.judge.baseline
        return RunDir(Path(self.run)).round(0).judge / "answers" if name == "round-0" else Path(name)

    def translation(self) -> Shards[Translation]:
        """The round's translations, of prompts that both languages have."""
        prompts = self.prompts()
        have = {(p.id, p.lang) for p in prompts}
        items = [
            Translation(p.id, p.lang, target)
            for p in prompts
            for lang, target in self.directions
            if lang == p.lang and (p.id, target) in have
        ]
        folder = Path(self.shared) if self.shared else self.folder.translations / "shards"
        return Shards(folder, items, self.config.sampling.shard_size)

    def scoring(self, part: Pass) -> Shards[Prompt]:
        prompts = self.prompts()
        if part.only is not None:
            wanted = set(part.only)
            prompts = [p for p in prompts if (p.id, p.lang) in wanted]
        folder = Path(part.folder) if part.folder else self.folder.rewards / "shards" / part.name
        return Shards(folder, prompts, self.config.sampling.shard_size)
