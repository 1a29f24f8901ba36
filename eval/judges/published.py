"""Judge prompts as others publish them, read from a file of theirs by name. Their texts are not part of icr.

FastChat's judge_prompts.jsonl (https://github.com/lm-sys/FastChat, fastchat/llm_judge/data): a row a prompt, of which
`pair-v2` compares two answers and `single-v1` with its three relatives grades both turns of MT-Bench. AlpacaEval's
configs.yaml (https://github.com/tatsu-lab/alpaca_eval, src/alpaca_eval/evaluators_configs): an entry an annotator,
which names a text file in ChatML and says how its answers are read; or that text file itself, with answers m and M.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TypeVar

from eval.judges.wording import PAIR, TURNS, Prompts, Wording, quote
from icr.base.errors import UserError, some
from icr.base.yaml_text import read_yaml
from prompts.tables import raise_all, read_file, suffix_of

PAIR_FIELDS = {"question": "instruction", "answer_a": "first", "answer_b": "second"}
TURN_FIELDS = {
    "question": "question_1", "answer": "answer_1", "ref_answer_1": "reference_1", "ref_answer_2": "reference_2",
    **{name: name for name in ("question_1", "question_2", "answer_1", "answer_2")},
}  # fmt: skip
OUTPUT_FIELDS = {"instruction": "instruction", "output_1": "first", "output_2": "second"}
"""A placeholder of theirs → icr's."""
FORMATS = {"pairwise": "[[A]]", "single": "[[rating]]"}
"""FastChat's types of prompts → how the answer is written, of those that icr reads."""
VERDICTS, GRADES = ("A", "B", "C"), tuple(map(str, range(1, 11)))
"""FastChat's: C is a tie."""
OF_SETS = {"math", "multi", "turn"}
"""Words in the names of prompts for questions with references, and for two turns."""
COMPARING = ("xalpaca", "accuracy")
CLASSES = ("m", "M")
"""How AlpacaEval's classifying prompts call the two outputs."""
MESSAGE = re.compile(r"<\|im_start\|>[ \t]*(\w+)[^\n]*\n(.*?)<\|im_end\|>", re.DOTALL)
AROUND = re.compile(r"\(\?:\^\|\\n\)|^\\n| \?")
"""What AlpacaEval's patterns have before a label: a new line, or blanks."""
DO = "choose another prompt, or write it in a file of icr's own form (docs/evaluation.md, Other prompts)"

Value = TypeVar("Value")


def split_name(template: str) -> tuple[Path, str]:
    """FILE and NAME of FILE#NAME; the name is "" where there is none."""
    path, mark, name = template.rpartition("#")
    return (Path(path), name) if mark and not Path(template).is_file() else (Path(template), "")


def read_published(path: Path, name: str) -> dict[str, Prompts] | None:
    """The prompt NAME of a published file, by the benchmarks that it serves; None for a file of icr's own form.

    Raises:
        UserError: no such file or prompt, or one that icr cannot ask with; the message lists the names that are there.
        ConfigError: several lines that are not JSON.
    """
    suffix = suffix_of(path)
    if suffix == ".jsonl":
        return _read_fastchat(path, name)
    if suffix == ".txt":
        if name not in ("", path.stem):
            raise UserError(
                f"{path.name} is one prompt and has none called {name}", where=str(path), do="leave out #NAME"
            )
        return _comparing(path.name, _read_chatml(path, CLASSES, path.stem, explained=False))
    return _read_annotator(path, name) if name else None


def _comparing(source: str, wording: Wording) -> dict[str, Prompts]:
    return dict.fromkeys(COMPARING, Prompts(source, {"prompt": wording}))


def _named(found: Mapping[str, Value], name: str, path: Path, names: Sequence[str]) -> Value:
    """Raises UserError: it is not there."""
    if name in found:
        return found[name]
    what = f"{path.name} has no prompt called {name}" if name else f"{path.name} has several prompts, and none is named"
    raise UserError(what, where=str(path), do=f"write {path.name}#NAME with one of {', '.join(names)}")


# --- FastChat


def _read_fastchat(path: Path, name: str) -> dict[str, Prompts]:
    problems: list[UserError] = []
    rows: dict[str, tuple[str, dict[str, str]]] = {}
    for where, value in read_file(path, problems):
        keys = ("name", "type", "system_prompt", "prompt_template", "output_format")
        if isinstance(value, dict) and all(isinstance(value.get(key), str) for key in keys):
            rows[value["name"]] = (where, value)
        else:
            do = "give a file of the form of FastChat's judge_prompts.jsonl"
            problems.append(UserError(f"this is not a judge prompt with {', '.join(keys)}", where=where, do=do))
    raise_all(problems)
    choice = [other for other in rows if not set(re.split(r"\W", other)) & OF_SETS]
    where, row = _named(rows, name, path, choice)
    if row["type"] == "single":  # any of the four names the set
        name = _first_of_set(name)
        where, row = _named(rows, name, path, choice)
    elif row["type"] == "pairwise" and name not in choice:
        grades = next((f"; {other} grades MT-Bench" for other in choice if rows[other][1]["type"] == "single"), "")
        raise _why_not(name, row["prompt_template"], where, f"choose one of {', '.join(choice)}{grades}")
    if name not in choice or row["output_format"] != FORMATS.get(row["type"]):
        what = f"icr cannot use {name} as the judge's prompt (type {row['type']}, answered as {row['output_format']})"
        raise UserError(what, where=where, do=f"choose one of {', '.join(choice)}")
    source = f"{path.name}#{name}"
    if row["type"] == "pairwise":
        return _comparing(source, _of_row(name, *rows[name], PAIR_FIELDS, PAIR, VERDICTS))
    relatives = dict(zip(TURNS, _relatives(name), strict=True))
    missing = [other for other in relatives.values() if other not in rows]
    if missing:
        what = f"{name} grades MT-Bench together with {some(missing)}, which the file does not have"
        raise UserError(what, where=str(path), do="use FastChat's complete judge_prompts.jsonl")
    graded = {
        turn: _of_row(other, *rows[other], TURN_FIELDS, TURNS[turn][0], GRADES) for turn, other in relatives.items()
    }
    return {"mtbench": Prompts(source, graded)}


def _why_not(name: str, template: str, where: str, do: str) -> UserError:
    """Why a comparison for MT-Bench is not asked with."""
    if "{question_2}" in template:
        what = f"{name} compares two models over both turns of MT-Bench, but icr grades each model by itself"
        return UserError(what, where=where, do=f"{do}, and icr judge diff compares two models' grades")
    what = f"{name} compares by a reference answer, which X-AlpacaEval does not have"
    return UserError(what, where=where, do=do)


def _first_of_set(name: str) -> str:
    """single-v1, of whichever of the four prompts for MT-Bench."""
    return "-".join(part for part in name.split("-") if part not in OF_SETS)


def _relatives(name: str) -> tuple[str, str, str, str]:
    """The four prompts of single-v1, in the order of TURNS: single-v1, single-math-v1, and both for two turns."""
    stem, _, version = name.rpartition("-")
    math = "-".join(filter(None, (stem, "math", version)))
    return name, math, f"{name}-multi-turn", f"{math}-multi-turn"


def _of_row(
    name: str,
    where: str,
    row: Mapping[str, str],
    fields: Mapping[str, str],
    must: Sequence[str],
    labels: tuple[str, ...],
) -> Wording:
    """A template of `str.format` in icr's form."""
    text, plain = "", ""
    try:
        for literal, field, spec, conversion in Formatter().parse(row["prompt_template"]):
            plain += literal  # an escaped brace ends a literal, too
            if field is not None:
                if spec or conversion:
                    raise ValueError(f"{{{field}}} has a format")
                text, plain = text + quote(plain) + _translate(field, fields), ""
    except ValueError as error:
        raise UserError(f"the prompt {name} cannot be filled in: {error}", where=where, do=DO) from None
    text += quote(plain)
    _check_fields(text, must, fields, f"the prompt {name}", where)
    return Wording(name, text, labels, explained=True, system=quote(row["system_prompt"]))


def _translate(field: str, fields: Mapping[str, str]) -> str:
    if field not in fields:
        raise ValueError(f"{{{field}}} is unknown; known: {', '.join(fields)}")
    return f"{{{fields[field]}}}"


def _check_fields(text: str, must: Sequence[str], fields: Mapping[str, str], what: str, where: str) -> None:
    theirs = {ours: name for name, ours in [*fields.items()][::-1]}
    missing = [f"{{{theirs[name]}}}" for name in must if f"{{{name}}}" not in text]
    if missing:
        raise UserError(f"{what} has no {' and no '.join(missing)}", where=where, do=DO)


# --- AlpacaEval


def _read_annotator(path: Path, name: str) -> dict[str, Prompts]:
    found = read_yaml(path, "the file of judge prompts").data
    entries = found if isinstance(found, dict) else {}
    named = {
        str(key): value for key, value in entries.items() if isinstance(value, dict) and "prompt_template" in value
    }
    if not named:
        what = f"{path.name} is not a configs.yaml of AlpacaEval, whose prompts have names"
        raise UserError(what, where=str(path), do=f"leave out #{name} if it is a file of icr's own form")
    entry = _named(named, name, path, list(named))
    labels, explained = _labels(entry, f"{path}: {name}")
    listed = Path(str(entry["prompt_template"]))
    text = next((at / listed for at in (path.parent.parent, path.parent) if (at / listed).is_file()), None)
    if text is None:
        what = f"file {listed} of the prompt {name} not found"
        do = f"keep it at {listed} beside the folder of {path.name}, as in AlpacaEval's evaluators_configs"
        raise UserError(what, where=f"{path}: {name}.prompt_template", do=do)
    return _comparing(f"{path.name}#{name}", _read_chatml(text, labels, name, explained=explained))


def _labels(entry: Mapping[str, object], where: str) -> tuple[tuple[str, str], bool]:
    """The words for the first and the second output, and whether the judge explains its choice before it."""
    given = entry.get("completion_parser_kwargs")
    options = given if isinstance(given, dict) else {}
    parser = entry.get("fn_completion_parser", "regex_parser")
    if entry.get("batch_size", 1) == 1 and parser == "logprob_parser":
        first, all_of = options.get("numerator_token"), options.get("denominator_tokens")
        others = [token for token in all_of if token != first] if isinstance(all_of, list) else []
        if isinstance(first, str) and len(others) == 1 and isinstance(others[0], str):
            return (first, others[0]), options.get("log_prob_index") == -1
    patterns = options.get("outputs_to_match")
    if entry.get("batch_size", 1) == 1 and parser == "regex_parser" and isinstance(patterns, dict):
        first, second = (_plain(patterns.get(number, patterns.get(str(number)))) for number in (1, 2))
        if first and second and len(patterns) == 2:
            return (first, second), False
    what = f"icr cannot read the answers that this prompt asks for ({parser}, batch_size {entry.get('batch_size', 1)})"
    raise UserError(what, where=where, do=DO)


def _plain(pattern: object) -> str | None:
    """The words that a pattern of AlpacaEval's stands for; None for any but the plainest."""
    bare = AROUND.sub("", pattern) if isinstance(pattern, str) else ""
    words = re.sub(r"\\([()\[\]])", r"\1", bare)
    return words if words and re.escape(words).replace(r"\ ", " ") == bare else None


def _read_chatml(path: Path, labels: tuple[str, str], name: str, *, explained: bool) -> Wording:
    """A text file of AlpacaEval's. `{instruction}`, `{output_1}` and `{output_2}` are filled in, all else stays."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the judge's prompt cannot be read: {error}", where=str(path), do="check the path") from None
    messages = [(role, content.strip()) for role, content in MESSAGE.findall(text)]
    if [role for role, _ in messages] not in (["system", "user"], ["user"]) or MESSAGE.sub("", text).strip():
        what = "this is not a prompt of one user message in ChatML, with or without a system message before it"
        raise UserError(what, where=str(path), do=DO)
    missing = [label for label in labels if not re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text)]
    if missing:
        what = f"the prompt does not name the answer {' and '.join(missing)}"
        do = "name it by its entry, configs.yaml#NAME, which says how its answers are written"
        raise UserError(what, where=str(path), do=do)
    *system, asked = (_fill_in(content, OUTPUT_FIELDS) for _, content in messages)
    _check_fields(asked, PAIR, OUTPUT_FIELDS, "the user message", str(path))
    return Wording(name, asked, labels, explained, "".join(system))


def _fill_in(text: str, fields: Mapping[str, str]) -> str:
    """icr's placeholders in the place of theirs; any other {word} is what it looks like."""
    parts = re.split(rf"\{{({'|'.join(fields)})\}}", text)
    return "".join(f"{{{fields[part]}}}" if n % 2 else quote(part) for n, part in enumerate(parts))
