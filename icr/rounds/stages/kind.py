"""What every kind of reward is: heavy work in worker processes first, then scores of any responses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pyarrow as pa

from icr.base.errors import StageFailed
from icr.config.schema import Config
from icr.engines.precision import Precision
from icr.pairs import PairResult, build_pairs
from icr.reward_table import ScoredLanguage, reward_language
from icr.rewards import LOG_RATIO, Score
from icr.rounds.stages.measure import (
    Key,
    Scored,
    measure,
)
from icr.rounds.stages.translate import file_name
from icr.rows import Response, Translation, read_responses, read_rewards, read_translations
from icr.work.pool import Task

if TYPE_CHECKING:
    from icr.rounds.context import Context


T = TypeVar("T", bound=Scored)
MakeTask = Callable[[Precision], Task]


class RewardKind(ABC):
    """A kind of reward, at work on one round. Making one starts nothing; `measure` comes before `scores` and `reward`.

    The length penalty of Eq. 15 comes off after `scores`, for every kind alike.
    """

    greedy: ClassVar[bool] = False
    """Whether it takes one greedy response a prompt and ignores `sampling`'s n, temperature and top_p."""
    has_precision: ClassVar[bool] = False
    """Whether a model's forward pass decides, which a bf16 run checks on a few prompts in fp32."""
    scale: str | None = LOG_RATIO
    """What the rewards measure, for lengths.json. None: it gives no rewards."""
    needs_english: ClassVar[bool] = True
    """Whether it reads the English prompt."""
    needs_reference: ClassVar[bool] = False
    """Whether it compares the policy with the reference, so that the two must differ."""
    reasons: ClassVar[tuple[str, ...]] = ()
    """Why it may be unable to reward a response."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.precision: Precision | None = None
        self.checked: list[tuple[str, str]] = []
        """(prompt id, language) of the prompts that are scored again in fp32; known once `measure` is done."""
        self._values: dict[str, dict[Key, float | None]] = {}

    @classmethod  # noqa: B027 - most kinds have nothing to check
    def check(cls, config: Config) -> None:
        """Find what is wrong before anything is loaded. Raises UserError."""

    @classmethod
    def describe(cls, config: Config) -> str:
        """What scoring does, in a line for readers who do not know the method."""
        return f"{config.reward.kind} scores the answers"

    def measure(self) -> dict[str, object]:
        """Do the heavy work, or what is left of it. Returns what the round's record says of it."""
        if self.has_precision:
            self.precision = self.context.machine.precision(self.context.config.reward.precision)
            self.checked = _spread(self.context) if self.precision == "bf16" else []
        return {"kind": self.context.config.reward.kind, "precision": self.precision}

    @abstractmethod
    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        """One score a response, all of language `lang`; `again`: from the fp32 pass, of `checked` prompts alone."""

    def reward(self, lang: str) -> ScoredLanguage:
        """The rewards of one language's responses, their penalty taken off."""
        return self._reward(self.read_responses(lang), lang)

    def pairs(self) -> dict[str, PairResult]:
        """The pairs of each language, once its rewards are in the round's folder: best and worst (Eq. 10)."""
        rewards, reject = self.context.round.rewards, self.context.config.reward.reject_wrong_language
        return {
            lang: build_pairs(
                self.read_responses(lang), read_rewards(rewards / f"{lang}.parquet"), reject_wrong_language=reject
            )
            for lang in self.context.languages
        }

    def read_responses(self, lang: str) -> list[Response]:
        """The round's responses in one language."""
        return read_responses(self.context.round.responses / f"{lang}.parquet")

    def read_all(self) -> list[Response]:
        """The responses of all languages."""
        return [row for lang in self.context.languages for row in self.read_responses(lang)]

    def read_translations(self, lang: str, target: str) -> list[Translation]:
        """Translations of the round's responses in `lang`."""
        return read_translations(self.context.round.translations / f"{file_name(lang, target)}.parquet")

    def _reward(self, responses: Sequence[Response], lang: str) -> ScoredLanguage:
        scores, config = self.scores(responses, lang), self.context.config.reward
        return reward_language(responses, scores, config, lang, scale=self.scale, reasons=self.reasons)

    def _pass(
        self, name: str, make_task: MakeTask, rows: Sequence[T], table: Callable[[Sequence[T]], pa.Table]
    ) -> None:
        """Measure rows once, and those of the checked prompts in fp32 as well.

        Args:
            name: of the pass, and of its values for `_measured`.
            make_task: from a precision to the workers' task.
            table: from rows to the task's table.
        """
        task, label = make_task(self.precision or "fp32"), f"{self.context.config.reward.kind} reward: {name}"
        self._values[name] = measure(self.context, name, task, table(rows), label)
        if self.checked:
            checked = set(self.checked)
            again = [row for row in rows if (row["prompt_id"], row["lang"]) in checked]
            again_name = f"{name}-fp32"
            check = make_task("fp32").model_copy(update={"check": True})
            try:
                self._values[again_name] = measure(self.context, again_name, check, table(again), label)
            except StageFailed as error:  # a check must not end what it checks
                first = str(error).splitlines()[0]
                self.context.machine.note(f"the check of bf16 against fp32 is left out: {first}")
                self._values[again_name] = {(r["prompt_id"], r["lang"], r["sample"]): None for r in again}

    def _measured(self, name: str, responses: Sequence[Response], again: bool) -> list[float | None]:
        values = self._values[f"{name}-fp32" if again else name]
        return [values[key] for key in list_keys(responses)]

    def was_checked(self, responses: Sequence[Response]) -> bool:
        """Whether these responses, which have rewards, were all scored again in fp32: there may be no memory for it."""
        passes = [values for name, values in self._values.items() if name.endswith("-fp32")]
        return all(values[key] is not None for values in passes for key in list_keys(responses) if key in values)


def list_keys(responses: Sequence[Response]) -> list[Key]:
    return [(r["prompt_id"], r["lang"], r["sample"]) for r in responses]


def _spread(context: Context) -> list[tuple[str, str]]:
    """Evenly spread prompts on which bf16 is compared with fp32."""
    every = context.inputs.prompts
    wanted = min(context.config.reward.flip_check, len(every))
    return [(p.id, p.lang) for p in (every[i * len(every) // wanted] for i in range(wanted))]
