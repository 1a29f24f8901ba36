"""The config of `icr transfer`: reward models of several source languages, measured in several target languages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from icr.config.reward_model import RewardTrain
from icr.config.schema import Cluster, Endpoint, Judge, Train
from icr.config.sft import SftBest, SftTrain
from icr.config.transfer_align import TrainedPrompts, TransferAlign
from icr.config.values import Count, NonNegative, Section, TemplateArguments, Text, Tokens

Task = Literal["none", "summarization", "dialog"]
Variant = Literal["transfer", "translate-train", "pooled"]
Side = Literal["organic", "translated", "back-translated"]
SIDE = "@"
"""Between the language of a place and the side of its demonstrations: es@translated."""
Languages = Annotated[list[Text], Field(min_length=1)]


class TransferLanguages(Section):
    """Which languages, by ISO 639-1 codes."""

    sources: Languages
    """One reward model each, trained on the rows of this language alone."""
    targets: Languages
    """Where every reward model is measured, on the held-out rows."""
    pooled: list[Annotated[list[Text], Field(min_length=2)]] = []
    """One reward model each, trained on the rows of several languages together."""

    @model_validator(mode="after")
    def _check_once(self) -> Self:
        for name in ("sources", "targets"):
            codes = getattr(self, name)
            if len(set(codes)) < len(codes):
                raise ValueError(f"{name} lists a language twice; list each once")
        pools = [tuple(sorted(pool)) for pool in self.pooled]
        if len(set(pools)) < len(pools) or any(len(set(pool)) < len(pool) for pool in pools):
            raise ValueError("pooled lists a language or a group twice; list each once")
        return self


def language_of(place: str) -> str:
    """The target of a place, see `TransferConfig.places`."""
    return place.partition(SIDE)[0]


def side_of(place: str) -> str:
    """What the demonstrations of a place are."""
    return place.partition(SIDE)[2] or "organic"


class TransferData(Section):
    """What the reward models are trained and measured on."""

    preferences: Text
    """A folder that `icr rm data` made, with rows of all languages."""
    limit: Count | None = None
    """Use only the first N training rows of each language, so that sources are compared at one size."""
    mix: Literal["natural", "even"] = "natural"
    """As in `icr rm train`: what a pooled model sees of each language."""
    demonstrations: Text | None = None
    """A folder that `icr rm data` made, with what `sft` trains on: of pairs the chosen responses, of ratings those with
    label 1. Without it: `preferences`."""
    prompts: Text | None = None
    """What the policy answers in every target, in any form of prompts; for `align`."""
    prompt_limit: Count | None = None
    """Use only the first N prompts."""


class TransferModels(Section):
    """The training of each reward model, with the keys of `icr rm train`."""

    loss: Literal["auto", "pairwise", "pointwise"] = "auto"
    margin: bool = False
    center: NonNegative = 0.0
    max_tokens: Tokens = 2048
    truncate: Literal["drop", "left"] = "drop"
    chat_template: Text | None = None
    template_arguments: TemplateArguments = {}
    train: RewardTrain = RewardTrain()


class TransferSft(Section):
    """Supervised fine-tuning of the policy, in every target by itself, with the keys of `icr sft`."""

    demonstrations: Annotated[list[Side], Field(min_length=1)] = ["organic"]
    """`organic`: as people wrote them in the target. `translated`: those in `pivot`, translated into the target.
    `back-translated`: the target's own, translated into `pivot` and back. One policy each; answers of all are compared
    with those of the organic one."""
    pivot: Text | None = None
    """Where translated demonstrations come from, and back-translated ones go through. As a target it has organic
    demonstrations alone."""
    max_tokens: Tokens = 2048
    best: SftBest = SftBest()
    train: SftTrain = SftTrain()

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if len(set(self.demonstrations)) < len(self.demonstrations):
            raise ValueError("demonstrations lists a kind twice; list each once")
        if "organic" not in self.demonstrations:
            raise ValueError("the other demonstrations are compared with organic: add it to demonstrations")
        if self.demonstrations != ["organic"] and self.pivot is None:
            raise ValueError(
                "translated demonstrations need the language that they are translated from: add pivot: LANG"
            )
        return self


class TransferTranslator(Endpoint):
    """Who translates the sources' rows, for `variants: translate-train`, and demonstrations, for `sft`. The endpoint
    keys apply to `kind: openai`."""

    kind: Literal["openai", "local"]
    """`openai`: any OpenAI-compatible endpoint. `local`: a model on this machine."""
    model: Text
    """The model's name at the endpoint, or a hub id, folder or .gguf file."""
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """local: what samples."""

    def named(self, key: str) -> str:
        """What the user sets a key by."""
        return f"translator.{key}"


class TransferLook(Section):
    """What to look for inside the reward models of sources and pools: the tables of `icr rm look`."""

    bow: bool = True
    """Which words the scores hang on, in every target: a linear regression from word counts."""
    spectrum: bool = True
    """The space of every target: σ₁/Σσ, effective rank, distance to `base`, translations found, norms."""
    parallel: Text | None = None
    """spectrum: texts with one id in all targets, in any form of prompts. Default: `data.prompts`."""
    texts: Annotated[Count, Field(ge=2)] = 500
    """spectrum: at most this many of them."""
    states: Literal["last", "mean"] = "last"
    """spectrum: the state of a text's last token, or the mean over its tokens."""

    @model_validator(mode="after")
    def _check_asked(self) -> Self:
        if not self.bow and not self.spectrum:
            raise ValueError("look has nothing to do: set bow or spectrum to true, or remove look")
        return self


class TransferConfig(Section):
    """The content of the file that `icr transfer` reads."""

    page: ClassVar[str] = "docs/transfer-matrix.md"
    command: ClassVar[str] = "icr transfer"
    run: Text | None = None
    """The output folder; `--run` overrides it."""
    task: Task = "none"
    """What the policy is asked to do with the texts of `prompts` and `demonstrations`: an instruction goes before them,
    which reward models and judges do not see. `summarization`: summarize the text; `judges` without a template compare
    summaries. `dialog`: write the assistant's next turn. `none`: prompts say themselves what is asked."""
    base: Text
    """What every reward model starts from: an encoder or a causal model; hub id or folder."""
    languages: TransferLanguages
    data: TransferData
    reward_model: TransferModels = TransferModels()
    variants: Annotated[list[Variant], Field(min_length=1)] | None = None
    """`transfer`: one reward model each source. `translate-train`: one each source and target, on the source's rows
    translated into the target. `pooled`: those of `languages.pooled`, or one on all sources. Default: transfer, and
    pooled if `languages.pooled` has groups."""
    translator: TransferTranslator | None = None
    """Who translates, for translate-train and for translated demonstrations."""
    sft: TransferSft | None = None
    """Makes a policy for every target first. Without it one policy answers in all of them."""
    align: TransferAlign | None = None
    """Best of n under every reward model, in every target."""
    judges: list[Judge] = []
    """Who compares the best answers with the policy's own, each with the keys of a run's `judge`."""
    look: TransferLook | None = None
    """Look inside the reward models."""
    cluster: Cluster = Cluster()
    """A Ray cluster that the steps use, several side by side, with the keys of a run's `cluster`."""

    @property
    def clustered(self) -> bool:
        """Whether workers are on a Ray cluster."""
        return self.cluster.address is not None

    @property
    def trainings(self) -> list[Train]:
        """The settings of all kinds of trainings that there are."""
        sections = self.reward_model, self.sft, *((self.align.dpo, self.align.rl) if self.align else ())
        return [section.train for section in sections if section is not None]

    @property
    def pools(self) -> list[list[str]]:
        """The groups of languages that share a reward model."""
        if self.variants is None or "pooled" not in self.variants:
            return self.languages.pooled
        return self.languages.pooled or [self.languages.sources]

    @property
    def demonstrations(self) -> str:
        """The folder of what `sft` trains on."""
        return self.data.demonstrations or self.data.preferences

    @property
    def places(self) -> list[str]:
        """Where best of n is measured: every target with its organic policy (es), and with those of the other sides
        (es@translated)."""
        targets = self.languages.targets
        if self.sft is None:
            return targets
        sides = [side for side in self.sft.demonstrations if side != "organic"]
        translated = [target for target in targets if target != self.sft.pivot]
        return [*targets, *(f"{target}{SIDE}{side}" for target in translated for side in sides)]

    def trained_places(self, of: TrainedPrompts) -> list[str]:
        """Where `align.dpo` or `align.rl` trains a policy for every reward model."""
        return self.places if of.sides == "all" else self.languages.targets

    @property
    def translated(self) -> list[tuple[str, str]]:
        """(source, target) whose rows are translated to train on."""
        if self.variants is None or "translate-train" not in self.variants:
            return []
        languages = self.languages
        return [(one, other) for other in languages.targets for one in languages.sources if one != other]

    @model_validator(mode="after")
    def _check_variants(self) -> Self:
        variants = self.variants or ["transfer"]
        if len(set(variants)) < len(variants):
            raise ValueError("variants lists a variant twice; list each once")
        if "transfer" not in variants:
            raise ValueError("the other variants are compared with transfer: add it to variants")
        if self.variants and self.languages.pooled and "pooled" not in variants:
            raise ValueError("languages.pooled has groups: add pooled to variants, or remove the groups")
        if "pooled" in variants and not self.languages.pooled and len(self.languages.sources) < 2:
            raise ValueError("pooled needs two sources: add one, or remove pooled from variants")
        if "translate-train" in variants and self.translator is None:
            raise ValueError("translate-train needs a translator: add translator: {kind: …, model: …}")
        silver = self.sft is not None and self.sft.demonstrations != ["organic"]
        if silver and self.translator is None:
            raise ValueError("translated demonstrations need a translator: add translator: {kind: …, model: …}")
        if self.translator is not None and "translate-train" not in variants and not silver:
            raise ValueError("translator is not used: add translate-train to variants, or remove translator")
        if self.sft is not None and self.align is None:
            raise ValueError("sft makes the policies of align: add align, or remove sft")
        if self.task != "none" and self.align is None:
            raise ValueError("task is what the policy of align is asked to do: add align, or remove task")
        if self.sft is None and self.data.demonstrations is not None:
            raise ValueError("data.demonstrations is for sft: add sft, or remove data.demonstrations")
        return self

    @model_validator(mode="after")
    def _check_look(self) -> Self:
        if self.look is not None and self.look.spectrum and (self.look.parallel or self.data.prompts) is None:
            raise ValueError("look.spectrum needs parallel texts: name look.parallel, or set look.spectrum: false")
        return self

    @model_validator(mode="after")
    def _check_align(self) -> Self:
        if self.align is not None and self.data.prompts is None:
            raise ValueError("align needs data.prompts: name a folder of LANG.jsonl")
        if self.align is None and self.judges:
            raise ValueError("judges compare what align makes: add align, or remove judges")
        best = self.align.best_of_n if self.align else None
        if best is not None and best.k is not None and best.k > best.n:
            raise ValueError(f"k is {best.k}, but each prompt has only {best.n} candidates: lower k, or raise n")
        if any(judge.kind == "none" or judge.judges for judge in self.judges):
            raise ValueError("each entry of judges must be one judge: give it kind and model")
        return self
