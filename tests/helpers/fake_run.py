"""A run folder as the pipeline leaves it, with invented numbers: what tests of the report and the tables look at.

No model is involved. Rewards are drawn at random; α, pairs and margins are computed from them, as in a real run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import stdtrit

from eval.clusters import PERCENT, wilson
from eval.mtbench.answers import ANSWERS as MT_ANSWERS
from eval.mtbench.grade import VERDICTS as MT_VERDICTS
from eval.mtbench.summary import summarise as summarise_mtbench
from eval.rates import RATES
from eval.xalpaca.pairwise import ORDERS, VERDICTS
from icr.base.files import read_rows, write_json, write_rows, write_text
from icr.base.rundir import RoundDir, RunDir, StageRecord
from icr.length import fit_length_penalty
from icr.rows import PAIRS, RESPONSES, REWARDS
from tests.helpers.fake_answers import answers_of, write_compared

LANGUAGES = ("en", "es", "ru", "de", "ar")
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> </details></table> {{ 7*7 }} \u202eevil\x1b[31m\x00'
STARTED = 1_760_000_000.0
PROMPTS, SAMPLES, HELD_OUT, STEPS = 24, 8, 40, 48
FINISHED = (99, "judge")

SENTENCES = {
    "en": "Start with a short list of what you need. Keep the receipts in one place. Ask a friend to read it aloud. "
    "Most people forget the second step. A walk after lunch helps more than coffee. Write the date on every page.",
    "es": "Empieza con una lista corta de lo necesario. Guarda los recibos juntos. Pide a un amigo que lo lea. "
    "Casi todos olvidan el segundo paso. Un paseo después de comer ayuda más que el café. Anota la fecha.",
    "ru": "Начните с короткого списка нужного. Храните чеки в одном месте. Попросите друга прочитать вслух. "
    "Многие забывают второй шаг. Прогулка после обеда помогает больше, чем кофе. Пишите дату на каждой странице.",
    "de": "Beginnen Sie mit einer kurzen Liste. Bewahren Sie die Belege an einem Ort auf. Lassen Sie es laut vorlesen. "
    "Viele vergessen den zweiten Schritt. Ein Spaziergang hilft mehr als Kaffee. Notieren Sie das Datum.",
    "ar": "ابدأ بقائمة قصيرة بما تحتاج إليه. احتفظ بالإيصالات في مكان واحد. اطلب من صديق أن يقرأها بصوت عالٍ. "
    "ينسى معظم الناس الخطوة الثانية. المشي بعد الغداء يفيد أكثر من القهوة. اكتب التاريخ على كل صفحة.",
}
QUESTIONS = {
    "en": "How do I plan a week of cheap meals?",
    "es": "¿Cómo planifico una semana de comidas baratas?",
    "ru": "Как спланировать недорогое питание на неделю?",
    "de": "Wie plane ich eine Woche günstiger Mahlzeiten?",
    "ar": "كيف أخطط لوجبات رخيصة لمدة أسبوع؟",
}
VERSIONS = {"python": "3.11.7", "icr": "0.1.0", "torch": "2.13.0", "transformers": "5.19.0"}
REJECTS = {"reject_wrong_language": True}


def config_of(rounds: int = 2, judge: str = "local", objective: str = "dpo") -> dict[str, Any]:
    return {
        "run": "runs/quickstart",
        "rounds": rounds,
        "models": {"policy": None, "reference": "SmolLM2-135M-Instruct"},
        "alignment": {"pairs": "prompts/english-pairs.jsonl", "learning_rate": 5e-6},
        "prompts": {"path": "prompts/quickstart", "languages": list(LANGUAGES), "limit": PROMPTS},
        "sampling": {"backend": "vllm", "n": SAMPLES, "temperature": 0.9},
        "reward": {"kind": "cross-lingual", "beta": 0.1, "length_unit": "characters", "precision": "bf16"} | REJECTS,
        "objective": objective,
        "train": {"learning_rate": 5e-6, "batch_size": 8, "deepspeed": "zero2"},
        "judge": {"kind": judge, "model": "SmolLM2-135M-Instruct" if judge != "none" else None, "baseline": "round-0"},
    }


def _text(lang: str, rng: np.random.Generator) -> str:
    sentences = SENTENCES[lang].split(". ")
    return ". ".join(sentences[i].rstrip(".") for i in rng.integers(0, len(sentences), rng.integers(1, 16))) + "."


def _sample(at: RoundDir, rng: np.random.Generator) -> dict[str, Any]:
    languages = {}
    for lang in LANGUAGES:
        rows: list[dict[str, Any]] = [
            {
                "prompt_id": f"p{p:03d}",
                "lang": lang,
                "sample": s,
                "prompt": QUESTIONS[lang],
                "response": HOSTILE if (p, s) == (3, 0) else _text(lang, rng),
                "token_ids": [1, 2, 3],
                "finish_reason": "length" if rng.random() < 0.06 else "stop",
            }
            for p in range(PROMPTS)
            for s in range(SAMPLES)
        ]
        write_rows(at.responses / f"{lang}.parquet", rows, RESPONSES)
        truncated = sum(r["finish_reason"] == "length" for r in rows)
        mean = float(np.mean([len(r["response"]) for r in rows]))
        languages[lang] = {"responses": len(rows), "truncated": truncated, "empty": 0, "mean_length": mean}
    total = PROMPTS * SAMPLES * len(LANGUAGES)
    return {"prompts": PROMPTS, "responses": total, "tokens": 90 * total, "backend": "vllm", "languages": languages}


def _responses(at: RoundDir, lang: str) -> list[dict[str, Any]]:
    return read_rows(at.responses / f"{lang}.parquet")


def _score(at: RoundDir, rng: np.random.Generator) -> dict[str, Any]:
    fits, languages = {}, {}
    for i, lang in enumerate(LANGUAGES):
        responses = _responses(at, lang)
        lengths = np.array([len(r["response"]) for r in responses], dtype=float).reshape(PROMPTS, SAMPLES)
        ratio = rng.normal(0, 6, lengths.shape) + (0.02 + 0.01 * i) * lengths
        fit = fit_length_penalty((0.1 * ratio).tolist(), lengths.tolist())
        fits[lang] = {
            "alpha": fit.alpha,
            "gap": fit.gap,
            "gap_without_penalty": fit.gap_without_penalty,
            "unit": "characters",
            "scale": "beta*(policy_logp-reference_logp)",
            "beta": 0.1,
            "prompts": PROMPTS,
            "responses": lengths.size,
            "curve": [list(point) for point in fit.curve],
        }
        rows = [
            {
                "prompt_id": r["prompt_id"],
                "sample": r["sample"],
                "policy_logp": -200.0 + float(x),
                "reference_logp": -200.0,
                "length": len(r["response"]),
                "reward": 0.1 * float(x) - fit.alpha * len(r["response"]),
                "truncated": r["finish_reason"] == "length",
                "detected_lang": lang,
                "dropped": None,
            }
            for r, x in zip(responses, ratio.ravel(), strict=True)
        ]
        write_rows(at.rewards / f"{lang}.parquet", rows, REWARDS)
        truncated = sum(bool(r["truncated"]) for r in rows)
        counts = {"responses": len(rows), "truncated": truncated, "wrong_language": 4 * i, "empty": 0}
        languages[lang] = counts | {"dropped": {"truncated": 0, "wrong_language": 0}}
    write_json(at.lengths, fits)
    flips = {"checked": 32, "flipped": 3}
    total = PROMPTS * SAMPLES * len(LANGUAGES)
    return {"responses": total, "precision": "bf16", "reference": "initial", "flips": flips, "languages": languages}


def _pair(at: RoundDir, rng: np.random.Generator) -> dict[str, Any]:
    pairs, languages = [], {}
    for i, lang in enumerate(LANGUAGES):
        text = {(r["prompt_id"], r["sample"]): r for r in _responses(at, lang)}
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in read_rows(at.rewards / f"{lang}.parquet"):
            groups.setdefault(row["prompt_id"], []).append(row)
        mine = []
        for prompt_id, rows in list(groups.items())[i:]:  # the first i prompts stand for identical responses
            best, worst = max(rows, key=lambda r: r["reward"]), min(rows, key=lambda r: r["reward"])
            mine.append(
                {
                    "prompt_id": prompt_id,
                    "lang": lang,
                    "prompt": text[prompt_id, 0]["prompt"],
                    "chosen": text[prompt_id, best["sample"]]["response"],
                    "rejected": text[prompt_id, worst["sample"]]["response"],
                    "chosen_reward": best["reward"],
                    "rejected_reward": worst["reward"],
                    "chosen_sample": best["sample"],
                    "rejected_sample": worst["sample"],
                    "prompt_ids": [1],
                    "chosen_ids": [2],
                    "rejected_ids": [3],
                }
            )
        # the widest margin is always shown: there the page must stand a hostile response
        max(mine, key=lambda p: p["chosen_reward"] - p["rejected_reward"])["rejected"] = HOSTILE
        pairs += mine
        languages[lang] = {
            "prompts": PROMPTS,
            "pairs": len(mine),
            "dropped": {"identical": i, "equal_reward": 0, "empty": 0, "too_few": 0},
            "reward_margin": float(np.mean([p["chosen_reward"] - p["rejected_reward"] for p in mine])),
            "chosen_length": float(np.mean([len(p["chosen"]) for p in mine])),
            "rejected_length": float(np.mean([len(p["rejected"]) for p in mine])),
            "rejected_language": 7019 + i,
        }
    write_rows(at.pairs, pairs, PAIRS)
    return {"pairs": len(pairs), "languages": languages}


def _train(at: RoundDir, rng: np.random.Generator) -> dict[str, Any]:
    rows = []
    for step in range(1, STEPS + 1):
        margin = 1.2 * (1 - np.exp(-step / 20)) + rng.normal(0, 0.12)
        chosen, rejected = -180 + 6 * margin + rng.normal(0, 4), -182 - 6 * margin + rng.normal(0, 4)
        dpo, nll = float(np.log1p(np.exp(-margin))), 1.5 - 0.1 * margin
        values = {"loss": dpo + nll, "loss/dpo": dpo, "loss/nll": nll}
        values |= {"logps/chosen": chosen, "logps/rejected": rejected}
        values |= {"rewards/chosen": margin / 2, "rewards/rejected": -margin / 2, "rewards/margins": margin}
        values |= {"rewards/accuracies": min(1.0, 0.5 + 0.3 * margin), "learning_rate": 5e-6}
        rows.append({"step": step, "epoch": step / STEPS, **{k: float(v) for k, v in values.items()}})
    write_text(at.train / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    counts = {"pairs": STEPS * 8, "steps": STEPS, "objective": "dpo", "processes": 2, "deepspeed": "zero2"}
    return counts | {"dropped_too_long": 2}


def _judge(at: RoundDir, rng: np.random.Generator) -> dict[str, Any]:
    languages: dict[str, dict[str, Any]] = {}
    for i, lang in enumerate(LANGUAGES):
        t, se = at.number, 0.0 if at.number == 0 else 5.5 + 0.4 * i
        rate = 50.0 + t * (3.0 + 2.5 * ((i + 1) % 4))
        languages[lang] = {
            "n": HELD_OUT - (i if t else 0),
            "win_rate": rate,
            "win_rate_se": se,
            "discrete_win_rate": rate,
            "discrete_win_rate_se": se,
            "style_win_rate": rate,
            "style_win_rate_se": se,
            "lc_win_rate": rate - 1.4 * t,
            "lc_win_rate_se": se,
            "unscored": i if t else 0,
            "unscored_verdicts": 2 * i if t else 0,
            "reasons": {"no label in the answer": 2 * i} if t and i else {},
            "shortened": 0,
            "mean_length": 420.0 + 30 * i + 18 * t,
            "mean_length_baseline": 420.0 + 30 * i,
            "right_language": 0.97 - 0.04 * i,
            "truncated": 0.05,
            "position_bias": 0.31 if t else None,
        }
    if at.number == 1:  # where a fit fails, the summary says why
        why = dict.fromkeys(("lc_win_rate", "lc_win_rate_se"), "all lengths are equal")
        languages["ar"] |= {"lc_win_rate": None, "lc_win_rate_se": None, "why": why}
    judge, average = "SmolLM2-135M-Instruct (local)" if at.number else "none (baseline)", _average(languages)
    summary = {"judge": judge, "baseline": "round-0", "orders": "both", "languages": languages}
    for row in [*languages.values(), average]:
        for name in RATES:
            value, se, n = row[name], row[f"{name}_se"], min(row["n"], HELD_OUT)
            quantile = float(stdtrit(n - 1, 0.975))
            row[f"{name}_interval"] = list(wilson(value, se, quantile, n, PERCENT)) if value and se else None
    write_json(at.summary, summary | {"average": average})
    _verdicts(at, {lang: row["win_rate"] / 100 for lang, row in languages.items()}, rng)
    _other_benchmarks(at, rng)
    return {"judged": HELD_OUT * len(LANGUAGES)}


def _average(languages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over the languages; every prompt's values in them are taken to be as one."""
    average: dict[str, Any] = {"n": sum(row["n"] for row in languages.values()), "why": {}}
    for name in [*RATES, *(f"{rate}_se" for rate in RATES), "mean_length"]:
        values = [row[name] for row in languages.values()]
        average[name] = None if None in values else float(np.mean(values))
        average["why"] |= {name: "missing for ar"} if None in values else {}
    return average


def _verdicts(at: RoundDir, rates: dict[str, float], rng: np.random.Generator) -> None:
    """Per prompt: in round 0 the answers alone, later the verdicts of both orders."""
    ids = [f"h{n}" for n in range(HELD_OUT)]
    verdict = {"reason": None, "raw": "A", "shortened": False}
    for lang, rate in rates.items():
        rows = answers_of(lang, at.number, ids, QUESTIONS[lang], HOSTILE)
        write_rows(at.judge / "answers" / f"{lang}.parquet", rows, RESPONSES)
        if at.number:
            write_compared(at.judge, lang, rows)
            values = np.clip(rate + 0.2 * rng.standard_normal(HELD_OUT), 0, 1).tolist()
            verdicts = [
                {"prompt_id": id, "order": order, "preference": value, **verdict}
                for id, value in zip(ids, values, strict=True)
                for order in ORDERS
            ]
            write_rows(at.judge / "verdicts" / f"{lang}.parquet", verdicts, VERDICTS)


def _other_benchmarks(at: RoundDir, rng: np.random.Generator) -> None:
    """Grades of MT-Bench and, where there are pairs, the reward's accuracy."""
    same = {"category": "writing", "reason": None, "raw": "", "shortened": False, "reference": None, "judge": "grader"}
    grades = [
        {"question_id": str(81 + n), "key": str(81 + n), "turn": turn, "grade": grade, **same}
        for n in range(6)
        for turn in (1, 2)
        for grade in [float(np.clip(4 + at.number + rng.standard_normal(), 1, 10))]
    ]
    folder = at.judge / "mtbench"
    asked = {"question_id": "81", "key": "81", "lang": "de", "category": "writing", "turn": 1, "prompt": "?"}
    answers = [asked | {"response": "Der Wal lebt im Meer.", "tokens": 8, "finish_reason": "stop", "model": "m"}]
    write_rows(folder / "verdicts" / "de.parquet", grades, MT_VERDICTS)
    write_rows(folder / "answers" / "de.parquet", answers, MT_ANSWERS)
    summarise_mtbench(folder, ["de"])
    if at.number:
        row = {"n": 20, "unscored": 0, "reasons": {}, "accuracy": 61.0 + at.number, "accuracy_se": 9.5, "ties": 0.1}
        average = {"accuracy": 61.0 + at.number, "accuracy_se": 9.5}
        write_json(at.judge / "accuracy" / "summary.json", {"judge": "j", "languages": {"de": row}, "average": average})


WORK = {"align": _train, "sample": _sample, "score": _score, "pair": _pair, "train": _train, "judge": _judge}
SECONDS = {"align": 21.4, "sample": 58.0, "score": 31.2, "pair": 0.4, "train": 44.9, "judge": 39.5}


def build(
    path: Path, rounds: int = 2, judge: str = "local", until: tuple[int, str] = FINISHED, running: bool = False
) -> RunDir:
    """A run of `rounds` rounds in folder `path`, up to and without stage `until`, which `running` marks as begun."""
    run = RunDir(path)
    write_text(run.config, yaml.safe_dump(config_of(rounds, judge), sort_keys=False, allow_unicode=True))
    plan = [(0, "align"), (0, "judge"), *((n, s) for n in range(1, rounds + 1) for s in list(WORK)[1:])]
    for i, (n, stage) in enumerate(plan):
        if stage == "judge" and judge == "none":
            continue
        at, started = run.round(n), STARTED + 60 * i
        if (n, stage) == until:
            if running:
                at.write_stage(stage, StageRecord(state="running", started=started, seconds=12.0))
            break
        counts, seconds = WORK[stage](at, np.random.default_rng(1000 * n + i)), SECONDS[stage]
        times = {"started": started, "finished": started + seconds, "seconds": seconds}
        at.write_stage(stage, StageRecord(state="done", counts=counts, versions=VERSIONS, **times))
    return run
