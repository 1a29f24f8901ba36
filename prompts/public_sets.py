"""Public sets of parallel texts: which files of which repository, and how they become the form that recipes name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from icr.base.errors import UserError, some
from icr.base.fields import Fields
from prompts.clones import Clone, Repository

PAPER = Repository("ZNLP/Implicit-Cross-Lingual-Rewarding", "168a4207912c562de2f72c7c08ff12156beb2815")
MULTILINGUAL = Repository("ServiceNow/FastChat", "57659b0588c8077b855f48ba9421bf31fbcd9f72")
RUSSIAN = Repository("NLP-Core-Team/FastChat", "a19736c35122b45e1e2b553bed6685b9d12cb442")

PAPER_LANGUAGES = ("en", "es", "ru", "de", "fr", "bn", "sw", "th", "zh")
ALPACA_LANGUAGES = ("ar", "bn", "de", "en", "es", "fr", "it", "ja", "ko", "ru", "sw", "th", "zh")
ANSWERS = {
    "gpt-4-turbo-2024-04-09": PAPER_LANGUAGES,
    "gpt-4o-mini": PAPER_LANGUAGES[:5],
    "gpt-4-0613": PAPER_LANGUAGES[:5],
    "gpt-3.5-turbo-0125": PAPER_LANGUAGES[:5],
}
"""Whose answers to X-AlpacaEval's prompts the authors' repository has, and in which languages."""
MT_FOLDERS = {
    "en": "mt_bench", "es": "mt_bench_es", "de": "mt_bench_de", "fr": "mt_bench_fr", "it": "mt_bench_it",
    "nl": "mt_bench_nl", "pt": "mt_bench_pt", "ja": "mt_bench_jp", "th": "mt_bench_thai", "bn": "mt_bench_bengali",
    "hi": "mt_bench_hindi", "ta": "mt_bench_tamil", "ur": "mt_bench_urdu", "gu": "mt_bench_gujarati",
    "ru": "ru_mt_bench",
}  # fmt: skip
MT_FILES = ("question.jsonl", "reference_answer/gpt-4.jsonl")

Texts = Mapping[str, str]
"""The files of a repository by path."""


@dataclass
class Converted:
    """A set in our form."""

    files: dict[str, list[Fields]] = field(default_factory=dict)
    """The rows of each jsonl file, by its path in the set's folder."""
    left_out: list[str] = field(default_factory=list)
    """What is not in the files, and why."""


@dataclass(frozen=True)
class PublicSet:
    """A set that `icr data get` brings."""

    about: str
    licence: str
    paths: Mapping[Repository, Sequence[str]]
    """The files that are read."""
    convert: Callable[[Texts], Converted]


def read_texts(wanted: PublicSet, clones: Mapping[Repository, Clone]) -> dict[str, str]:
    """The set's files by path."""
    return {path: clones[source].read(path) for source, paths in wanted.paths.items() for path in paths}


def _ultrafeedback_path(lang: str) -> str:
    return f"data/ultrafeedback_binarized/subset/random_5000/{lang}.jsonl"


def _convert_ultrafeedback(texts: Texts) -> Converted:
    """Each language's prompts in the order of the English ones, by id."""
    made = Converted()
    english: dict[str, Fields] = {}
    for lang in PAPER_LANGUAGES:
        rows = _by_id(texts, _ultrafeedback_path(lang), lang, made)
        english = english or rows  # the first language
        made.files[f"{lang}.jsonl"] = [
            {"instruction_id": id, "instruction": rows[id]["instruction"]} for id in english if id in rows
        ]
        _count(made, lang, "prompts without an English partner", [id for id in rows if id not in english])
    return made


def _alpaca_path(lang: str) -> str:
    return f"data/x-alpacaeval/data/{lang}.json"


def _answers_path(model: str, lang: str) -> str:
    return f"results/base_model/x-alpacaeval_format/{lang}/{model}/model_outputs.json"


def _convert_alpaca(texts: Texts) -> Converted:
    """Prompts, and each model's answers under the ids of the prompts that they answer.

    Answers without an id, as in the English file of GPT-4-Turbo, are joined by their instruction.
    """
    made = Converted()
    for lang in ALPACA_LANGUAGES:
        prompts = _by_id(texts, _alpaca_path(lang), lang, made)
        made.files[f"{lang}.jsonl"] = [
            {"id": row["id"], "dataset": row["dataset"], "instruction": row["instruction"]} for row in prompts.values()
        ]
        ids = {row["instruction"].strip(): id for id, row in prompts.items()}
        for model in (model for model, languages in ANSWERS.items() if lang in languages):
            path = _answers_path(model, lang)
            answers = {ids.get(row["instruction"].strip()): row["output"] for row in _rows(texts, path)}
            if None in answers or len(answers) < len(prompts):
                raise _unexpected(path, "its instructions are not those of the prompts")
            made.files[f"answers/{model}/{lang}.jsonl"] = [
                {"id": row["id"], "generator": model, "instruction": row["instruction"], "output": answers[id]}
                for id, row in prompts.items()
            ]
    return made


def _mt_path(lang: str, file: str) -> str:
    return f"fastchat/llm_judge/data/{MT_FOLDERS[lang]}/{file}"


def _convert_mt_bench(texts: Texts) -> Converted:
    """Questions without the hints that their files call `reference`, and GPT-4's or people's reference answers apart.

    FastChat grades against the answers; the hints were machine-translated as Python source and are broken in places.
    """
    made = Converted()
    for lang in MT_FOLDERS:
        rows = _rows(texts, _mt_path(lang, MT_FILES[0]))
        kept = [row for row in rows if len(row["turns"]) == 2 and all(turn.strip() for turn in row["turns"])]
        made.files[f"{lang}.jsonl"] = [
            {name: row[name] for name in ("question_id", "category", "turns")} for row in kept
        ]
        ids = [row["question_id"] for row in kept]
        empty = [row["question_id"] for row in rows if row["question_id"] not in ids]
        _count(made, lang, "questions with an empty turn", empty)
        made.files[f"references/{lang}.jsonl"] = [
            # some Russian answers are numbers
            {"question_id": row["question_id"], "model_id": row["model_id"],
             "choices": [{"index": 0, "turns": [str(turn) for turn in row["choices"][0]["turns"]]}]}
            for row in _rows(texts, _mt_path(lang, MT_FILES[1]))
            if row["question_id"] in ids
        ]  # fmt: skip
    return made


def _rows(texts: Texts, path: str) -> list[Fields]:
    """The objects of a file: one array (.json), or one a line."""
    text = texts[path]
    try:
        rows = json.loads(text) if path.endswith(".json") else [json.loads(x) for x in text.split("\n") if x.strip()]
    except json.JSONDecodeError as error:
        raise _unexpected(path, f"not JSON: {error.msg}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise _unexpected(path, "it does not have objects")
    return rows


def _by_id(texts: Texts, path: str, lang: str, made: Converted) -> dict[str, Fields]:
    """The prompts of a file by id; empty ones, and all but the first of an id, are counted as left out."""
    found: dict[str, Fields] = {}
    bad: list[str] = []
    for row in _rows(texts, path):
        id = str(row.get("instruction_id", row.get("id")))
        if id in found or not row["instruction"].strip():
            bad.append(id)
        else:
            found[id] = row
    _count(made, lang, "prompts that are empty or have another's id", bad)
    return found


def _count(made: Converted, lang: str, what: str, ids: Sequence[object]) -> None:
    if ids:
        made.left_out.append(f"{lang}: {what}: {len(ids)} ({some(map(str, ids))})")


def _unexpected(path: str, what: str) -> UserError:
    return UserError(f"a public file is not as expected: {what}", where=path, do="use another clone of the repository")


SETS = {
    "ultrafeedback": PublicSet(
        about="5,000 prompts of UltraFeedback and their machine translations, with the same ids in all languages. The "
        "first 1,000 and 3,000 are the paper's smaller sets.",
        licence="The repository has no licence file; its README says Apache-2.0. UltraFeedback, from which the English "
        "prompts are, has the MIT licence.",
        paths={PAPER: [_ultrafeedback_path(lang) for lang in PAPER_LANGUAGES]},
        convert=_convert_ultrafeedback,
    ),
    "x_alpacaeval": PublicSet(
        about="X-AlpacaEval: AlpacaEval's 805 prompts in 13 languages. `answers/` has a folder of answers for each of "
        f"{', '.join(ANSWERS)}; the paper compares with those of gpt-4-turbo-2024-04-09.",
        licence="The repository has no licence file; its README says Apache-2.0. AlpacaEval, from which the English "
        "prompts are, has CC BY-NC 4.0: no commercial use. The answers are OpenAI's models', whose terms of use apply.",
        paths={
            PAPER: [_alpaca_path(lang) for lang in ALPACA_LANGUAGES]
            + [_answers_path(model, lang) for model, languages in ANSWERS.items() for lang in languages]
        },
        convert=_convert_alpaca,
    ),
    "mt_bench": PublicSet(
        about="MT-Bench's questions of two turns in FastChat's format. `references/` has reference answers, by GPT-4 "
        "and in Russian by people. Which translations the paper used is not known; the Russian one is from another "
        "repository than the rest, and both are forks of FastChat.",
        licence="Apache-2.0, both repositories. Most reference answers are GPT-4's, for which OpenAI's terms of use "
        "apply.",
        paths={
            MULTILINGUAL: [_mt_path(lang, file) for lang in MT_FOLDERS if lang != "ru" for file in MT_FILES],
            RUSSIAN: [_mt_path("ru", file) for file in MT_FILES],
        },
        convert=_convert_mt_bench,
    ),
}
"""The sets by name, which is also the name of their folder."""
