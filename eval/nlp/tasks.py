"""Which lm-eval tasks measure which benchmark in which language, and how they are loaded.

The paper's Table 4 gives ARC challenge, HellaSwag, MMLU and TruthfulQA (MC1 and MC2) as averages over the languages.
lm-eval has them as its okapi tasks, machine translations of the English ones; English itself has its own. Few-shot
counts: 5 for MMLU is the paper's. Its counts for the others could not be verified: 0 is what lm-eval does when it is
given no setting, and what its English TruthfulQA fixes. Plain `acc` is reported first: the values of Table 4 are of its
size, those of `acc_norm` would be about 0.15 higher on HellaSwag (a conclusion from the numbers, not a statement of the
paper). The ± of Table 4 have the size of one language's standard error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from eval.nlp.families import FAMILIES, check_families, find_members
from icr.base.errors import UserError, explain_os_error
from icr.config.schema import Nlp

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class Benchmark:
    name: str
    template: str
    """The okapi task, with {lang}."""
    english: str
    few_shot: int


PAPER = (
    Benchmark("arc", "arc_{lang}", "arc_challenge", 0),
    Benchmark("hellaswag", "hellaswag_{lang}", "hellaswag", 0),
    Benchmark("mmlu", "m_mmlu_{lang}", "m_mmlu_en", 5),
    Benchmark("truthfulqa_mc1", "truthfulqa_{lang}_mc1", "truthfulqa_mc1", 0),
    Benchmark("truthfulqa_mc2", "truthfulqa_{lang}_mc2", "truthfulqa_mc2", 0),
)
PAPER_FOLDERS = ("okapi", "arc", "hellaswag", "truthfulqa")
"""Where these lie among lm-eval's tasks: to read the other 14,000 takes seven seconds."""
SEED = 1234
"""Of the choice of few-shot examples; lm-eval's own."""


@dataclass(frozen=True)
class NlpTask:
    """One lm-eval task."""

    name: str
    benchmark: str
    """The paper's name, or the task's name in the config: what the languages are averaged over."""
    language: str | None
    """None for a task that was named without {lang}."""
    few_shot: int | None
    """None: what the task's own file says."""
    group: str | None = None
    """lm-eval's name of the benchmark in this language, where this is one of its subjects."""


@dataclass(frozen=True)
class Plan:
    tasks: list[NlpTask]
    without: dict[str, list[str]] = field(default_factory=dict)
    """Language → benchmarks that have no task in it."""


def check_settings(settings: Nlp, languages: Sequence[str] = ()) -> None:
    """Find what is wrong without lm-eval.

    Raises:
        UserError: the folder of custom tasks is missing, has no task files, or one is not YAML; a multilingual
            benchmark has none of the languages.
    """
    if languages:
        check_families(settings, languages)
    if settings.include_path is None:
        return
    folder, where = Path(settings.include_path), f"judge.nlp.include_path: {settings.include_path}"
    if not folder.is_dir():
        raise UserError("folder of tasks not found", where=where, do="name a folder with task files")
    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise UserError("the folder of tasks has no .yaml file", where=where, do="put lm-eval task files there")
    for file in files:
        try:
            # composed, not constructed: lm-eval's own tags stay what they are, and nothing is run
            yaml.compose(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            raise UserError(
                f"a task file is not valid YAML: {getattr(error, 'problem', error)}",
                where=f"{file}:{mark.line + 1}" if mark else str(file),
                do="fix the line; check indentation and colons",
            ) from error


class Catalogue:
    """The tasks that lm-eval knows, including custom ones."""

    def __init__(self, include_path: str | None) -> None:
        import lm_eval.tasks

        builtin = Path(lm_eval.tasks.__file__).parent
        self._own = [Path(include_path)] if include_path else []
        self._few = lm_eval.tasks.TaskManager(
            include_defaults=False, include_path=[*(builtin / name for name in PAPER_FOLDERS), *self._own]
        )
        self._all: TaskManager | None = None
        self._families: dict[str, TaskManager] = {}

    def manager(self, name: str, *, quick: bool = False) -> TaskManager | None:
        """Who knows the task; None if nobody does. `quick`: search only the paper's tasks and custom ones."""
        if name in self._few.all_tasks:
            return self._few
        if quick:
            return None
        if (found := self._family(name)) is not None:
            return found
        if self._all is None:
            import lm_eval.tasks

            self._all = lm_eval.tasks.TaskManager(include_path=self._own or None)
        return self._all if name in self._all.all_tasks else None

    def _family(self, name: str) -> TaskManager | None:
        """Who knows a task of a multilingual benchmark: it reads that benchmark's files alone."""
        import lm_eval.tasks

        builtin = Path(lm_eval.tasks.__file__).parent
        for folder in {family.folder for family in FAMILIES.values() if name.startswith(family.prefix)}:
            if folder not in self._families:
                self._families[folder] = lm_eval.tasks.TaskManager(
                    include_defaults=False, include_path=[builtin / folder]
                )
            if name in self._families[folder].all_tasks:
                return self._families[folder]
        return None

    def require(self, name: str) -> None:
        """Raises UserError if the task is unknown, or the name stands for several."""
        where = f"judge.nlp.tasks: {name}"
        found = self.manager(name)
        if found is None:
            assert self._all is not None
            near = difflib.get_close_matches(name, self._all.all_tasks, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists all tasks."
            raise UserError("task not found", where=where, do=f"{hint} Custom tasks: judge.nlp.include_path")
        if name not in found.all_subtasks:
            raise UserError("this is the name of a group of tasks", where=where, do="name its tasks one by one")

    def load(self, task: NlpTask) -> Task:
        """The task with its data and its few-shot examples, tried on its first item.

        Raises:
            UserError: the data cannot be fetched, a package is missing, or the task fails on its own data.
        """
        found = self.manager(task.name)
        assert found is not None
        where = f"task {task.name}"
        try:
            loaded = found.load([task.name])["tasks"][task.name]
            asked = task.few_shot if task.few_shot is not None else loaded.get_config("num_fewshot") or 0
            # lm-eval's own rule: a task file that says 0 means it
            loaded.set_config("num_fewshot", 0 if loaded.get_config("num_fewshot") == 0 else asked)
            _try(loaded)
        except ImportError as error:
            raise UserError(
                f"the task needs a Python package that is not installed: {error}", where=where, do="install it with pip"
            ) from error
        except OSError as error:
            known = explain_os_error(error)
            if known is not None:
                raise known from error
            raise UserError(
                f"the task's data cannot be loaded: {error}",
                where=where,
                do="online, they are downloaded once into the Hugging Face cache (HF_HOME), which can be "
                "copied to an offline machine; data files of custom tasks are relative to the working directory. Or "
                "remove the task from judge.nlp.tasks",
            ) from error
        except Exception as error:  # task files are templates and code, which may fail in any way on their data
            raise UserError(
                f"the task fails on its own data: {type(error).__name__}: {error}",
                where=where,
                do="fix its file, or remove it from judge.nlp.tasks",
            ) from error
        if getattr(loaded, "UNSAFE_CODE", False):
            raise UserError(
                "the task executes code that the model writes", where=where, do="remove it from judge.nlp.tasks"
            )
        return loaded


def _try(task: Task) -> None:
    """Make the first item's prompt and choices; afterwards the few-shot examples are drawn as if for the first time."""
    task.set_fewshot_seed(SEED)
    if not len(task.eval_docs):
        raise ValueError("it has no items")
    doc = next(iter(task.eval_docs))
    task.fewshot_context(doc, num_fewshot=task.get_config("num_fewshot"))
    task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "multiple_choice":
        task.doc_to_choice(doc)
    task.set_fewshot_seed(SEED)


def plan_tasks(settings: Nlp, languages: Sequence[str], catalogue: Catalogue) -> Plan:
    """The tasks to run, in the order of the config, and what there is none for.

    Raises:
        UserError: an unknown task, or none at all for these languages.
    """
    tasks: dict[str, NlpTask] = {}
    without: dict[str, list[str]] = {}
    for name in ["paper"] if settings.tasks == "paper" else settings.tasks:
        paper = name == "paper"
        if name in FAMILIES:
            for lang in languages:
                members = _family(name, lang, settings)
                tasks |= {task.name: task for task in members}
                if not members:
                    without.setdefault(lang, []).append(name)
            continue
        wanted = _paper(settings, languages) if paper else _named(name, settings, languages)
        there = [task for task in wanted if catalogue.manager(task.name, quick=paper)]
        if not there and not paper:
            catalogue.require(wanted[0].name)
        for task in there:
            catalogue.require(task.name)
            tasks.setdefault(task.name, task)
        for task in wanted:
            if task not in there and task.language:
                without.setdefault(task.language, []).append(task.benchmark)
    if not tasks:
        raise UserError(
            f"no task found for the languages {', '.join(languages)}",
            where="judge.nlp.tasks",
            do="name tasks in these languages, or custom ones in judge.nlp.include_path",
        )
    _check_few_shot(settings, [t.benchmark for t in tasks.values()] + [b for of in without.values() for b in of])
    return Plan(list(tasks.values()), without)


def _paper(settings: Nlp, languages: Sequence[str]) -> list[NlpTask]:
    return [
        NlpTask(
            name=b.english if lang == "en" else b.template.format(lang=lang),
            benchmark=b.name,
            language=lang,
            few_shot=settings.few_shot.get(b.name, b.few_shot),
        )
        for b in PAPER
        for lang in languages
    ]


def _family(name: str, lang: str, settings: Nlp) -> list[NlpTask]:
    """A multilingual benchmark in one language: its single tasks, with few-shot examples as their files say."""
    found, shots = find_members(name, lang), settings.few_shot.get(name)
    if found is None:
        return []
    group = found.name if len(found.tasks) > 1 else None
    return [NlpTask(task, name, lang, shots, group) for task in found.tasks]


def _named(name: str, settings: Nlp, languages: Sequence[str]) -> list[NlpTask]:
    """A task of the config, in every language where its name has {lang}. The paper's tasks are known by their names."""
    tasks = []
    for lang in languages if "{lang}" in name else (None,):
        task = name.replace("{lang}", lang) if lang else name
        known, of_name = _of_paper(task)
        benchmark = known.name if known else name
        shots = settings.few_shot.get(benchmark, known.few_shot if known else None)
        tasks.append(NlpTask(task, benchmark, lang or of_name, shots))
    return tasks


def _of_paper(task: str) -> tuple[Benchmark | None, str | None]:
    """The paper's benchmark that a task belongs to, and its language."""
    for b in PAPER:
        if task == b.english:
            return b, "en"
        found = re.fullmatch(b.template.replace("{lang}", "([a-z]{2})"), task)
        if found:
            return b, found[1]
    return None, None


def _check_few_shot(settings: Nlp, benchmarks: Sequence[str]) -> None:
    for name in settings.few_shot:
        if name not in benchmarks:
            raise UserError(
                f"few-shot examples are set for {name}, which is not measured",
                where="judge.nlp.few_shot",
                do=f"the benchmarks are {', '.join(dict.fromkeys(benchmarks))}",
            )
