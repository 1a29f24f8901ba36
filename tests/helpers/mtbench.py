"""What the tests of MT-Bench share: questions in five languages, given answers, engines and judges that remember."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks import Evaluation
from eval.judges.asking import Judging
from eval.judges.question import Question, Verdict
from eval.mtbench.answers import answer, bound_conversation, import_answers
from eval.mtbench.questions import load_questions
from eval.mtbench.sampling import AnswerTask
from icr.base.content import hash_value
from icr.config.evaluation import EvaluationConfig
from icr.engines.base import Completion, Decoding, Request
from icr.engines.context import context_length
from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.work.resident import Resident
from tests.helpers.judging import Inline, judged_by

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "mt_bench"


LANGUAGES = ["en", "es", "ru", "de", "fr"]
MATH = {
    "en": ("What is three times four?", "And half of that?"),
    "es": ("¿Cuánto es tres por cuatro?", "¿Y la mitad de eso?"),
    "ru": ("Сколько будет трижды четыре?", "А половина от этого?"),
    "de": ("Was ist drei mal vier?", "Und die Hälfte davon?"),
    "fr": ("Combien font trois fois quatre ?", "Et la moitié de cela ?"),
}
WRITING = {
    "en": ("Describe a river in the mountains.", "Say it in one sentence."),
    "es": ("Describe un río en las montañas.", "Dilo en una sola frase."),
    "ru": ("Опиши реку в горах.", "Скажи это одним предложением."),
    "de": ("Beschreibe einen Fluss in den Bergen.", "Sag es in einem Satz."),
    "fr": ("Décris une rivière dans les montagnes.", "Dis-le en une phrase."),
}


def line(id: Any = 81, category: str = "writing", turns: Any = ("Sag A.", "Sag B."), **more: Any) -> dict[str, Any]:
    return {"question_id": id, "category": category, "turns": list(turns), **more}


def write_lines(file: Path, lines: Sequence[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), encoding="utf-8")
    return file.parent


def read_lines(file: Path) -> list[Any]:
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]


def write_questions(folder: Path, *, reference: Any = None) -> Path:
    """Two questions in each of five languages; German ids as some files have them."""
    for lang in LANGUAGES:
        ids = ("81_DE", "111_DE") if lang == "de" else (81, 111)
        math = line(ids[1], "math", MATH[lang], **({} if reference is None else {"reference": reference}))
        write_lines(folder / f"{lang}.jsonl", [line(ids[0], "writing", WRITING[lang]), math])
    return folder


def make_config(tiny: Path, questions: Path, **judge: Any) -> EvaluationConfig:
    settings = {"questions": str(questions), "max_tokens": 12, **judge.pop("mtbench", {})}
    return EvaluationConfig.model_validate(
        {
            "benchmark": "mtbench",
            "model": str(tiny),
            "languages": judge.pop("languages", LANGUAGES),
            "sampling": {"backend": "transformers", "shard_size": judge.pop("shard_size", 4)},
            "judge": {"kind": "local", "model": str(tiny), **judge, "mtbench": settings},
        }
    )


class Recorder:
    """An engine that says which turn it answers, remembers what it was asked, and dies after `limit` calls."""

    name = "recorder"

    def __init__(self, tokenizer: Any, limit: int = 10**9) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        self.calls = list[tuple[Decoding, list[str]]]()
        self.seeds = list[int]()

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        if len(self.calls) >= self.limit:
            raise KeyboardInterrupt
        prompts = [self.tokenizer.decode(r.prompt_ids) for r in requests]
        self.calls.append((decoding, prompts))
        self.seeds += [r.seed for r in requests]
        texts = ["second" if "assistant\nfirst" in prompt else "first" for prompt in prompts]
        return [Completion(self.tokenizer(text)["input_ids"][: decoding.max_tokens], "stop") for text in texts]


class Scripted:
    """A judge that gives each question the grade of a function, and None where it has none; dies after `limit`."""

    def __init__(self, of: Callable[[Question], int | None], limit: int = 10**9) -> None:
        self.of, self.limit, self.seen = of, limit, list[Question]()

    def ask(self, questions: Sequence[Question], done: Callable[[int], None], running: Any = None) -> list[Verdict]:
        if len(self.seen) >= self.limit:
            raise KeyboardInterrupt
        self.seen.extend(questions)
        done(len(questions))
        grades = [self.of(q) for q in questions]
        return [Verdict(None, "refused") if g is None else Verdict.of_label(q, str(g), f"[[{g}]]")
                for q, g in zip(questions, grades, strict=True)]  # fmt: skip


def graded_by(judge: Scripted) -> Judging:
    return judged_by(judge, "local: scripted", 2)


class Answering(Resident):
    """A worker's state whose engine is the test's."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def engine(self, model: str, settings: EngineSettings, probe: object = None) -> Any:
        return self._recorder


def make_evaluation(config: EvaluationConfig, model: str, out: Path, machine: Any, key: str = "key") -> Evaluation:
    """MT-Bench on `model` (""; its answers are in `out`), answered and judged by the workers of `machine`."""
    judge_models = {judge.local_model: judge.local_model for judge in config.judge.each.values() if judge.local_model}
    assert config.judge.mtbench is not None
    longest = bound_conversation(
        load_questions(config.judge.mtbench, config.languages), config.judge.mtbench.max_tokens
    )
    window = min(context_length(model), longest) if model else 0
    return Evaluation(
        model=model,
        name="org/a model",
        out=out,
        languages=config.languages,
        template=Template(),
        sampling=config.sampling,
        judge=config.judge,
        judge_models=judge_models,
        machine=machine,
        engine=EngineSettings(backend="transformers", precision="fp32", window=window),
        key=key,
    )


def answer_questions(config: EvaluationConfig, model: str, out: Path, recorder: Recorder) -> dict[str, int]:
    """Have `recorder` answer in the model's place, as far as it was not answered before."""
    assert config.judge.mtbench is not None
    machine: Any = Inline(Answering(recorder))
    questions = load_questions(config.judge.mtbench, config.languages)
    key = hash_value(model)
    evaluation = make_evaluation(config, model, out, machine, key)
    assert evaluation.engine is not None
    task = AnswerTask(model=model, template=Template(), engine=evaluation.engine,
                      max_tokens=config.judge.mtbench.max_tokens, seed=config.sampling.seed)  # fmt: skip
    size = config.sampling.shard_size
    return answer(machine, task, questions, out, key=key, name="org/a model", shard_size=size)


def answered(folder: Path, questions: Any) -> Path:
    for lang, of_lang in questions.items():
        rows = [{"question_id": q.id, "choices": [{"turns": [f"{lang} first", f"{lang} second"]}]} for q in of_lang]
        write_lines(folder / "given" / f"{lang}.jsonl", rows)
    import_answers(questions, folder / "given", folder / "out")
    return folder / "out"
