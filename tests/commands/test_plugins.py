"""docs/plugins.md is what the source says, and what the source says of rows is what plug-ins get."""

from __future__ import annotations

import inspect
import re

import pytest

from docs.make_plugins import PAGE, ROOT, render
from eval.judges import own as own_judge
from eval.judges.prompts import read_prompts
from eval.xalpaca.pairwise import Comparison
from icr.base.conversation import wrap_text
from icr.base.plugins import load_class
from icr.config.schema import Config
from icr.rounds.stages.own_reward import GivenRow, OwnReward, make_rows
from icr.work.classify import TEXTS
from loops.families import Family
from loops.objective import PairObjective, load_objective

EXAMPLES = ROOT / "examples"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "python -m docs.make_plugins"


def test_every_example_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".yaml"):
            assert path.read_text(encoding="utf-8") in text, path.name


def test_every_name_is_explained() -> None:
    empty = re.findall(r"^\| `(\w+)` \| `[^`]+` \|  \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(empty) <= {"prompt_id"}


def test_the_keys_exist() -> None:
    for key in re.findall(
        r"^\| .+? \| `([\w.]+)` \| ", PAGE.read_text(encoding="utf-8").split("\n## ")[0], re.MULTILINE
    ):
        fields = Config.model_fields
        *sections, last = key.split(".")
        for section in sections:
            kind = fields[section].annotation
            kinds = [kind, *getattr(kind, "__args__", ())]
            fields = next(k for k in kinds if hasattr(k, "model_fields")).model_fields
        assert last in fields, key


def test_rows_have_the_keys_of_the_page() -> None:
    row = dict.fromkeys(TEXTS.names, "x") | {"sample": 0, "token_ids": [1], "finish_reason": "stop"}
    (given,) = make_rows([row])
    assert given.keys() == GivenRow.__annotations__.keys()
    question = Comparison("1", "de", wrap_text("Wer?"), "Ich", "Du").question(
        read_prompts(EXAMPLES / "judge_prompts.yaml")["xalpaca"].one
    )
    assert own_judge._make_row(question).keys() == own_judge.Row.__annotations__.keys()


@pytest.mark.parametrize(
    ("name", "method", "kind"),
    [
        ("short_paragraphs.py:ShortParagraphs", "rewards", OwnReward),
        ("right_language.py:RightLanguage", "preferences", own_judge.Preferences),
        ("ipo.py:IPO", "loss", PairObjective),
    ],
)
def test_examples_have_the_signature(name: str, method: str, kind: type) -> None:
    found = getattr(load_class(str(EXAMPLES / name), "key"), method)
    assert inspect.signature(found).parameters.keys() == inspect.signature(getattr(kind, method)).parameters.keys()


def test_the_example_of_an_objective_is_one() -> None:
    assert issubclass(load_objective(f"{EXAMPLES / 'ipo.py'}:IPO"), PairObjective)
    assert Family.__abstractmethods__ == {"collate", "trainer"}


def test_the_example_of_prompts_is_read() -> None:
    found = read_prompts(EXAMPLES / "judge_prompts.yaml")
    assert found.keys() == {"xalpaca", "mtbench"} and found["mtbench"].labels == ("1", "2", "3", "4", "5")
