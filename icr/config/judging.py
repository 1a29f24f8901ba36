"""The keys of `judge`: who judges, how an endpoint is asked, and the settings of the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from icr.base.secrets import hide
from icr.config.values import (
    Count,
    NonNegative,
    OwnClass,
    Positive,
    Processes,
    Section,
    Share,
    Text,
    Tokens,
    Whole,
)


class Endpoint(Section):
    """An OpenAI-compatible endpoint; the key comes from OPENAI_API_KEY."""

    base_url: Annotated[Text, AfterValidator(hide)] | None = None
    """Address of the endpoint, such as http://localhost:8000/v1. Default: OPENAI_BASE_URL, else OpenAI's own. A key in
    it is used and written to no file."""
    concurrency: Processes = 16
    """Number of requests at a time."""
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    """Prompt and completion tokens together."""
    attempts: Annotated[Count, Field(le=1000)] = 6
    """How often a request is tried before it counts as failed."""
    timeout: Positive = 120.0
    """Seconds to wait for the answer to a request."""
    budget: Positive | None = None
    """The most that this command may spend in US dollars, over all its rounds, benchmarks and variants.
    Answers received so far are kept."""
    reasoning_effort: Text | None = None
    """How long a reasoning model thinks before it answers, in the endpoint's words: none, minimal, low, medium,
    high."""
    extra_body: dict[str, object] = {}
    """More parameters that every request is sent with, such as {chat_template_kwargs: {enable_thinking: false}}."""
    system: Text | None = None
    """A system message before every question."""
    prices: Text | None = None
    """YAML file of MODEL: {input: …, output: …} in US dollars per million tokens. Overrides the known prices."""
    ends: Text | None = None
    """YAML file of MODEL: YYYY-MM-DD, the first day without a hosted model, or null. Overrides the known ends, of which
    `icr validate` warns."""

    def named(self, key: str) -> str:
        """What the user sets a key by: here the option of a command."""
        return f"--{key.replace('_', '-')}"


class MtBench(Section):
    questions: Text
    """Folder of LANG.jsonl in FastChat's question format."""
    references: Text | None = None
    """Folder of LANG.jsonl in FastChat's reference-answer format. `judge`: the judge writes missing references.
    Default: the references in the question files."""
    limit: Count | None = None
    """Use only the first N questions of each category."""
    max_tokens: Tokens = 1024


class Accuracy(Section):
    pairs: Count = 100
    """Number of the round's pairs that are judged, per language."""


class Nlp(Section):
    """NLP benchmarks, run by lm-eval (Table 4)."""

    tasks: Literal["paper"] | Annotated[list[Text], Field(min_length=1)] = "paper"
    """`paper`: ARC, HellaSwag, MMLU and TruthfulQA in every language that has them. Or a list of lm-eval task names;
    `{lang}` in a name stands for each language, and `paper` for the tasks of the paper. `mmlu_prox`, `mmlu_prox_lite`,
    `include`, `global_mmlu`, `mgsm`, `mgsm_native_cot` and `belebele` are whole benchmarks in every language that has
    them."""
    include_path: Text | None = None
    """Folder of custom task files in lm-eval's format. Python functions named in them are executed."""
    few_shot: dict[str, Annotated[Whole, Field(ge=0, le=1000)]] = {}
    """Few-shot examples per benchmark, such as {arc: 25}. Default: 5 for MMLU, 0 for the paper's other benchmarks, and
    for any other task what its own file says."""
    chat_template: bool = False
    """Ask through the model's chat template, with few-shot examples as turns: lm-eval's `apply_chat_template` and
    `fewshot_as_multiturn`."""
    limit: Count | None = None
    """Use only the first N items of each task."""
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto`: vLLM on a GPU if it is installed, else transformers."""
    batch_size: Literal["auto"] | Count = "auto"
    """transformers: texts in one forward pass. `auto`: as many as fit into the GPU's memory; 16 without a GPU."""


MEMBER = (
    "name",
    "kind",
    "model",
    "template",
    "base_url",
    "reasoning_effort",
    "extra_body",
    "system",
    "preference",
    "structured",
    "verdict_tokens",
    "verdict_temperature",
)
"""Keys of one of several judges."""


def _check_judges(judges: list[dict[str, object]]) -> list[dict[str, object]]:
    """With what may be a secret in their addresses hidden. Raises ValueError."""
    names: list[object] = []
    for number, judge in enumerate(judges, 1):
        unknown = [key for key in judge if key not in MEMBER]
        if unknown:
            raise ValueError(f"judge {number} has the unknown key {unknown[0]}; known keys: {', '.join(MEMBER)}")
        if not judge.get("model") and ":" not in str(judge.get("kind", "")):
            raise ValueError(f"judge {number} has no model: add model: …")
        if judge.get("kind") == "none":
            raise ValueError(f"judge {number} has the kind none: write openai, local or module:Class, or remove it")
        names.append(_name_member(judge))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two judges are called {twice[0]}: give each its own `name`")
    return [
        {key: hide(value) if key == "base_url" and isinstance(value, str) else value for key, value in judge.items()}
        for judge in judges
    ]


def _name_member(judge: Mapping[str, object]) -> str:
    """What one of several judges is called: a folder by its last part."""
    named = str(judge.get("name") or judge.get("model") or judge["kind"])
    return Path(named).name if Path(named).is_absolute() else named


class Judge(Endpoint):
    """Who judges, and which benchmarks. The endpoint keys (`base_url` to `prices`) apply to `kind: openai`."""

    kind: Literal["local", "openai", "none"] | OwnClass = "none"
    """`local`: a local model's probabilities. `openai`: any OpenAI-compatible endpoint. `module:Class`: a custom judge,
    which compares two answers (docs/evaluation.md)."""
    model: Text | None = None
    """`local`: hub id, folder or .gguf file. `openai`: the model's name at the endpoint."""
    judges: Annotated[list[dict[str, object]], AfterValidator(_check_judges)] = []
    """Several judges in place of `model`, one after the other: a list of {model: …}, each with its own `name`, `kind`,
    `template`, `base_url` or other key of how a judge is asked. Keys that are not given are those of `judge`."""
    benchmarks: Annotated[list[Literal["xalpaca", "mtbench", "accuracy", "nlp"]], Field(min_length=1)] = ["xalpaca"]
    """What is measured. `xalpaca`: win rates against the baseline. `mtbench`: MT-Bench. `accuracy`: how often the judge
    agrees with the round's pairs. `nlp`: NLP tasks."""
    every: Count = 1
    """Judge every N rounds. Round 0 and the last round are always judged."""
    prompts: Text | None = None
    """xalpaca: held-out prompts, in the same format as `prompts.path` and also joined by id. `{lang}` in it stands for
    each language: hf:CohereLabs/m-ArenaHard:{lang}:test."""
    limit: Count | None = None
    """xalpaca: use only the first N prompts, in the order of the English ones."""
    baseline: Text = "round-0"
    """xalpaca: what to compare with. `round-0`, or a folder of answers (`id`, `output`) in LANG.json, .jsonl,
    .csv or .parquet, each also .gz."""
    orders: Literal["both", "seeded"] = "both"
    """xalpaca: show every pair in both orders, or in one random order per prompt."""
    template: Text | None = None
    """YAML file of the judge's prompts, their labels, and whether it reasons first; or FILE#NAME, a prompt of
    FastChat's judge_prompts.jsonl or AlpacaEval's configs.yaml (docs/evaluation.md). Default: icr's own prompts, also
    for a benchmark that the file does not have."""
    preference: Literal["auto", "logprobs", "label"] = "auto"
    """How an endpoint's reply is read. `logprobs`: each label counts by its probability. `label`: only the written
    label counts. `auto`: `logprobs` if the endpoint returns them, else `label`."""
    batch: bool = False
    """Ask an endpoint through OpenAI's Batch API: half the price, and answers within a day. The command waits for them;
    it may be ended, and the same command collects what was submitted."""
    structured: bool = False
    """Have an endpoint answer in JSON with one of the labels (`response_format`), where it can. One that refuses it is
    asked without."""
    verdict_tokens: Tokens | None = None
    """An endpoint's answer to a question has at most this many tokens, its reasoning included. Default: 16 for a label,
    1,024 where the judge explains its verdict first, and 4,096 with `reasoning_effort` other than none."""
    verdict_temperature: Annotated[NonNegative, Field(le=2)] | None = None
    """Temperature of an endpoint that judges. Default: 0, and higher where an answer could not be read and is requested
    again. (`temperature` is the one at which the measured model answers.)"""
    max_unscored: Share = 0.05
    """If more than this share of the questions stays without a verdict, there is no result but an error with the
    reasons. The same command asks them again."""
    cache: Text | None = None
    """Folder of all answers that endpoints were paid for, in any evaluation: what is in it is not requested again from
    the same address. `none`: an evaluation has its own alone. Default: ICR_JUDGE_CACHE, else ~/.cache/icr/judge."""
    difficulty: Text | None = None
    """xalpaca: csv with `index` (the prompt's number, from 0) and `difficulty`, for the length-controlled win rate."""
    gamed: Text | None = None
    """xalpaca: csv with the judged pairs of the two gamed baselines, which regularise the length-controlled win
    rate."""
    max_tokens: Tokens = 2048
    """xalpaca: longest answer of the measured model, in tokens."""
    temperature: Annotated[NonNegative, Field(le=2)] = 0.6
    """xalpaca: temperature at which the measured model answers. (The judge's is `verdict_temperature`.)"""
    top_p: Annotated[Share, Field(gt=0)] = 0.9
    mtbench: MtBench | None = None
    accuracy: Accuracy = Accuracy()
    nlp: Nlp = Nlp()

    def named(self, key: str) -> str:
        """What the user sets a key by."""
        return f"judge.{key}"

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        if self.judges and self.kind not in ("openai", "local"):
            raise ValueError("judges needs a kind for entries without one: set judge.kind to openai or local")
        try:
            _ = self.members
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"judges: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
        return self

    @property
    def members(self) -> dict[str, Judge]:
        """Several judges by name, each as the only one; {} where there is one judge."""
        if not self.judges:
            return {}
        common = self.model_dump(exclude={"judges", "model"})
        found = {}
        for given in self.judges:
            own = {key: value for key, value in given.items() if key != "name"}
            # a class is asked without a prompt
            of_all = common | {"template": None} if ":" in str(own.get("kind", "")) else common
            found[_name_member(given)] = Judge.model_validate(of_all | own)
        return found

    @property
    def each(self) -> dict[str, Judge]:
        """All judges by name; one judge alone is called ""."""
        return self.members or {"": self}

    @property
    def asks_endpoint(self) -> bool:
        """Whether a judge, or one of several, is an endpoint."""
        return any(judge.kind == "openai" for judge in self.each.values())

    @property
    def judges_asked(self) -> list[dict[str, object]]:
        """`judges` without what is an input, known by its content: the files of prompts, and local models."""
        found = []
        for given in self.judges:
            local = given.get("kind", self.kind) == "local"
            inputs = {"template"} | ({"model"} if local else set())
            bare = {key: value for key, value in given.items() if key not in inputs}
            found.append(bare if len(bare) == len(given) else {"name": _name_member(given), **bare})
        return found

    @property
    def own(self) -> str | None:
        """The custom judge, as `module:Class`."""
        return self.kind if ":" in self.kind else None

    @property
    def local_model(self) -> str | None:
        """The model that is loaded to judge; None for an endpoint, a custom judge or no judge."""
        return self.model if self.kind == "local" else None

    @property
    def active(self) -> bool:
        """Whether a run has judge stages; NLP tasks need no judge."""
        return self.kind != "none" or "nlp" in self.benchmarks
