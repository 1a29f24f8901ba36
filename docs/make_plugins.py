"""`python -m docs.make_plugins`: docs/plugins.md, the API of everything that users can put in, read from the source."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from docs.read_messages import Source
from eval.judges.own import Preferences, Row
from eval.judges.prompts import OURS, GradePrompt, PairPrompt
from eval.judges.wording import PAIR, TURNS
from icr.config.schema import Config
from icr.rounds.stages.own_reward import GivenRow, OwnReward
from loops.families import Family
from loops.objective import Objective, PairLogps, PairObjective

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("plugins.md")
HEAD = """# The API of plug-ins

What you can put into a run: its signature, what goes in and out, and what is refused. The guides show how to use each.
A class is one class in one file outside the package. It is named `module:Class` (a module in the current folder or on
PYTHONPATH) or `path/to/file.py:Class`. It is an input of the step that calls it: if its file changes after that step
was done, the run is refused.

{table}
Whether a run stops early is not a plug-in: `stop_when` is {stop}.

This page is generated from the source.
"""
GUIDES = (
    ("[a reward](#a-reward)", "reward.kind", "a class with `rewards`", "reward.md"),
    ("[an objective](#an-objective)", "objective", "a class with `loss`", "objective.md"),
    ("[a judge](#a-judge)", "judge.kind", "a class with `preferences`", "evaluation.md#a-custom-judge"),
    ("[prompts of a judge](#prompts-of-a-judge)", "judge.template", "a YAML file", "evaluation.md#other-prompts"),
    (
        "[a kind of training](#a-kind-of-training)",
        "objective",
        "a class that names its family",
        "objective.md#another-kind-of-training",
    ),
    ("NLP tasks", "judge.nlp.include_path", "lm-eval's task files", "evaluation.md#nlp-tasks"),
    ("a chat template", "models.chat_template", "a Jinja file", "models.md"),
    ("how weights are split over GPUs", "train.deepspeed", "a DeepSpeed JSON file", "gpu.md"),
)
"""What, under which config key, what is written, and the page that shows it."""
LABELS = ("label_1", "label_2", "label_3")
SHAPES = "Shapes: B is the number of pairs of a micro-batch. Log-probs are sums over a response's tokens, in nats."


def render() -> str:
    """The page."""
    parts = [
        HEAD.replace("{stop}", _choices("stop_when")).replace("{table}", _guides()),
        _reward(),
        _objective(),
        _judge(),
        _prompts(),
        _family(),
    ]
    return "\n".join(parts)


def _guides() -> str:
    rows = [f"| {what} | `{key}` | {written} | [{page.split('#')[0]}]({page}) |" for what, key, written, page in GUIDES]
    return "\n".join(["| what | config key | you write | guide |", "|---|---|---|---|", *rows, ""])


def _reward() -> str:
    return _section(
        "A reward",
        [
            _signature(OwnReward.rewards),
            _doc(OwnReward.rewards),
            "A row of `rows`:",
            _fields(GivenRow),
            "Any unit will do: the length penalty α is fitted in it. The class is created without arguments.",
            _example("short_paragraphs.py"),
            _errors("icr/base/plugins.py"),
        ],
    )


def _objective() -> str:
    return _section(
        "An objective",
        [
            _signature(PairObjective.loss),
            _doc(PairObjective.loss),
            "The fields of `logps`:",
            _fields(PairLogps),
            SHAPES,
            "In the class, "
            + _doc(Objective.__init__).replace("`beta` and `nll_weight`", "`self.beta` and `self.nll_weight`", 1),
            _example("ipo.py"),
            _errors("loops/objective.py"),
        ],
    )


def _judge() -> str:
    return _section(
        "A judge",
        [
            _signature(Preferences.preferences),
            _doc(Preferences.preferences),
            "A row of `rows`:",
            _fields(Row),
            "The class is created without arguments. If it has a text `rule`, results show it behind the class's name. "
            "MT-Bench needs grades, so it takes no custom judge.",
            _example("right_language.py"),
            _errors("eval/judges/own.py", "and those of a reward"),
        ],
    )


def _prompts() -> str:
    turns = [
        f"| `mtbench.{name}` | {_names(must)} | {_names([*may, *OURS, 'label_1', '…'])} |"
        for name, (must, may) in TURNS.items()
    ]
    table = [
        "| prompt | must have | may have |",
        "|---|---|---|",
        f"| `xalpaca.prompt`, `accuracy.prompt` | {_names(PAIR)} | {_names([*OURS, *LABELS])} |",
        *turns,
    ]
    return _section(
        "Prompts of a judge",
        [
            "A section per benchmark; those that the file does not have are icr's own.",
            "Keys of `xalpaca` and `accuracy`:",
            _fields(PairPrompt),
            "Keys of `mtbench`:",
            _fields(GradePrompt),
            "Placeholders:",
            "\n".join(table),
            _example("judge_prompts.yaml", "yaml"),
            _errors("eval/judges/prompts.py"),
        ],
    )


def _family() -> str:
    methods = [name for name, value in vars(Family).items() if inspect.isfunction(value) and name != "__init__"]
    return _section(
        "A kind of training",
        [
            "An objective that is not a loss of pairs derives from `loops.objective.Objective`. It names in `family` "
            "a class that derives from `loops.families.Family`, of which `loops/sft_family.py` is the smallest. "
            "The objective has:",
            "\n\n".join(
                f"{_signature(getattr(Objective, name))}\n\n{_doc(getattr(Objective, name))}"
                for name in ("reference_requests", "dataset")
            ),
            "The family has these, of which "
            + " and ".join(f"`{name}`" for name in sorted(Family.__abstractmethods__))
            + " have to be there:",
            _fields(Family),
            "\n\n".join(f"{_signature(getattr(Family, name))}\n\n{_doc(getattr(Family, name))}" for name in methods),
            _errors("loops/families.py"),
        ],
    )


def _section(title: str, parts: list[str]) -> str:
    return f"## {title}\n\n" + "\n\n".join(parts) + "\n"


def _signature(method: Callable[..., object]) -> str:
    """A method as it is written, without its body."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    tree.body, tree.decorator_list = [ast.Expr(ast.Constant(...))], []
    return f"```text\n{ast.unparse(tree).removesuffix('...').strip().removesuffix(':')}\n```"


def _doc(method: Callable[..., object]) -> str:
    """A docstring's paragraphs, each on a line; the arguments as a list."""
    text, _, arguments = (inspect.getdoc(method) or "").partition("\n\nArgs:\n")
    lines = [line.strip() for line in arguments.splitlines()]
    listed = "\n".join(f"- `{line.replace(': ', '`: ', 1)}" for line in lines)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text) + (f"\n\n{listed}" if listed else "")


def _fields(kind: type) -> str:
    """The annotated names of a class and those that it inherits here, with types and the docstrings beneath them."""
    lines = ["| name | type | |", "|---|---|---|"]
    for owner in [base for base in reversed(kind.__mro__) if base.__module__ == kind.__module__]:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                text = after.value.value if _is_text(after) else ""
                lines.append(f"| `{node.target.id}` | `{_type(node)}` | {_cell(str(text))} |")
    return "\n".join(lines)


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _type(node: ast.AnnAssign) -> str:
    text = ast.unparse(node.annotation)
    text = re.sub(r"^(?:ClassVar|Annotated)\[(.*)\]$", r"\1", text)
    return re.sub(r", Field\(.*\)$", "", text).replace("|", "\\|")


def _example(name: str, language: str = "python") -> str:
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    return f"[examples/{name}](../examples/{name}):\n\n```{language}\n{text}```"


def _errors(file: str, more: str = "") -> str:
    """What is refused, and the way out, as the source says it."""
    source = Source(ROOT / file)
    found = list(dict.fromkeys(message for _, messages in source.messages() for message in messages))
    rows = [f"| {_cell(message.what)} | {_cell(message.do)} |" for message in found]
    said = f"Errors{f' ({more})' if more else ''}, each with exit code 2:"
    return "\n".join([said, "", "| message | what to do |", "|---|---|", *rows])


def _names(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{{{name}}}`" if name != "…" else name for name in names)


def _choices(key: str) -> str:
    values = re.findall(r"'(\w+)'", str(Config.model_fields[key].annotation))
    return " or ".join(f"`{value}`" for value in values)


def _cell(text: str) -> str:
    return re.sub(r"([*<])", r"\\\1", text.replace("\n", " ").replace("|", "\\|").strip())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
