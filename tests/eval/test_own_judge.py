"""A judge of the user's own: the example, what it sees, what becomes of its figures, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from eval.accuracy import run_agreement
from eval.judges.open import find_terms
from eval.judges.own import OwnJudge
from eval.layout import OneParagraph, SeveralLines
from eval.terms import describe_judge
from eval.xalpaca.answers import read_answers
from eval.xalpaca.pairwise import run_verdicts
from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.config.schema import Judge
from tests.commands.test_judge_cli import write_public
from tests.conftest import Config
from tests.helpers.command import icr
from tests.helpers.judging import judged_by, write_answers
from tests.malformed.bench import run_here

ROOT = Path(__file__).resolve().parents[2]
FAULTY = """
class High:
    def preferences(self, rows):
        return [1.5 if row["prompt_id"] == "p1" else 0.5 for row in rows]

class Nan:
    def preferences(self, rows):
        return [float("nan") for row in rows]

class Short:
    def preferences(self, rows):
        return [0.5]

class Fails:
    def preferences(self, rows):
        raise KeyError("missing")

class Nothing:
    pass
"""
LONGER = """
class Longer:
    def preferences(self, rows):
        return [float(len(row["first"]) > len(row["second"])) for row in rows]
"""


def example() -> str:
    return (ROOT / "examples" / "right_language.py").read_text(encoding="utf-8")


def judge(tmp_path: Path, code: str, name: str) -> OwnJudge:
    (tmp_path / "my_judge.py").write_text(code)
    return OwnJudge(f"{tmp_path / 'my_judge.py'}:{name}")


def verdicts(tmp_path: Path, own: OwnJudge, ours: dict[str, str], theirs: dict[str, str]) -> list[dict[str, Any]]:
    answers = write_answers(tmp_path / "answers", "de", ours)
    read_answers(answers)
    run_verdicts(judged_by(own, size=256), answers, {"de": theirs}, tmp_path / "out")
    return pq.read_table(tmp_path / "out" / "verdicts" / "de.parquet").to_pylist()


def test_the_judge_of_the_examples_in_both_orders(tmp_path: Path) -> None:
    german, spanish = "Das ist ein ganz gewöhnlicher deutscher Satz.", "Esta es una frase española muy corriente."
    own = judge(tmp_path, example(), "RightLanguage")
    found = verdicts(
        tmp_path, own, {"p1": german, "p2": spanish, "p3": german}, {"p1": spanish, "p2": german, "p3": german}
    )
    of = {(row["prompt_id"], row["order"]): row["preference"] for row in found}
    assert of == {(id, order): wanted for id, wanted in {"p1": 1.0, "p2": 0.0, "p3": 0.5}.items()
                  for order in ("policy-first", "baseline-first")}  # fmt: skip


def test_it_sees_what_the_guide_says(tmp_path: Path) -> None:
    code = (
        "import json, pathlib\n"
        "class Seen:\n"
        "    def preferences(self, rows):\n"
        "        pathlib.Path(__file__).with_suffix('.json').write_text(json.dumps(rows))\n"
        "        return [0.25 for row in rows]\n"
    )
    found = verdicts(tmp_path, judge(tmp_path, code, "Seen"), {"p1": "Ja {x}"}, {"p1": "Nein"})
    one = {
        "prompt_id": "p1",
        "lang": "de",
        "instruction": "Frage p1",
        "messages": wrap_text("Frage p1"),
        "first": "Ja {x}",
        "second": "Nein",
    }
    assert json.loads((tmp_path / "my_judge.json").read_text()) == [one, one | {"first": "Nein", "second": "Ja {x}"}]
    assert [row["preference"] for row in found] == [0.25, 0.75]


def test_accuracy_takes_an_undecided_judge_for_a_tie(tmp_path: Path) -> None:
    """One pair that the judge decides as the reward did, one that it turns round, one that it leaves open."""
    texts = {"p1": ("a b", "a\nb"), "p2": ("a\nb", "a b"), "p3": ("a\nb", "c\nd")}
    rows = [{"prompt_id": id, "lang": "de", "prompt": id, "chosen": c, "rejected": r} for id, (c, r) in texts.items()]
    run_agreement(judged_by(OwnJudge("eval.layout:OneParagraph")), {"de": rows}, tmp_path / "out")
    found = {r["prompt_id"]: (r["agreement"], r["tie"]) for r in pq.read_table(tmp_path / "out/de.parquet").to_pylist()}
    assert found == {"p1": (1.0, 0.0), "p2": (0.0, 0.0), "p3": (0.5, 1.0)}


def test_judges_of_layout() -> None:
    block, lines = "One. Two.", "One.\nTwo."
    rows = [{"first": a, "second": b} for a in (block, lines) for b in (block, lines)]
    assert OneParagraph().preferences(rows) == [0.5, 1.0, 0.0, 0.5]
    assert SeveralLines().preferences(rows) == [0.5, 0.0, 1.0, 0.5]


def test_the_rule_of_a_class_is_shown(tmp_path: Path) -> None:
    said = find_terms(Judge(kind="eval.layout:SeveralLines"))
    assert said == {"address": None, "rule": "several lines beat one paragraph"}
    summary = {"judge": "eval.layout:SeveralLines", **said}
    assert describe_judge(summary) == "eval.layout:SeveralLines (several lines beat one paragraph)"
    (tmp_path / "my_judge.py").write_text(FAULTY)  # without one
    assert find_terms(Judge(kind=f"{tmp_path / 'my_judge.py'}:High"))["rule"] is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("High", r"returned 1\.5\n.*prompt_id p1, language de\n.*from 0 to 1"),
        ("Nan", "returned nan"),
        ("Short", "returned 1 numbers for 4 rows"),
        ("Fails", "KeyError: 'missing'"),
        ("Nothing", "has no method preferences"),
    ],
)
def test_a_judge_that_goes_wrong(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        verdicts(tmp_path, judge(tmp_path, FAULTY, name), {"p1": "a", "p2": "b"}, {"p1": "c", "p2": "d"})


def test_problems_are_known_before_anything_runs(tiny_config: Config, tmp_path: Path) -> None:
    own = tmp_path / "my_judge.py"
    own.write_text(FAULTY)
    for section, what in [
        ({"kind": f"{own}:Nothing"}, "Nothing has no method preferences"),
        ({"kind": "absent_module:X"}, "ModuleNotFoundError"),
        (
            {"kind": f"{own}:High", "benchmarks": ["mtbench"]},
            "only compare answers, but mtbench needs grades",
        ),
        ({"kind": "opnai"}, "`judge.kind`"),
    ]:
        config = tiny_config(tmp_path / "c", judge={"prompts": str(tmp_path), **section})
        done = run_here(["validate", config])
        assert done.code == 2 and what in done.err, done.err


def test_answers_are_judged_by_the_command(tmp_path: Path) -> None:
    """A real worker: the class reaches it from the folder of the command, and the table shows its rate."""
    (tmp_path / "my_judge.py").write_text(LONGER)
    ours = write_public(
        tmp_path / "ours", "us", "de", {1: "kurz", 2: "viel länger als das andere", 3: "lang genug, ja"}
    )
    theirs = write_public(tmp_path / "theirs", "them", "de", dict.fromkeys((1, 2, 3), "mittellang"))
    words = ["judge", "xalpaca", ours, "--judge", "my_judge:Longer", "--baseline", theirs, "--languages", "de", "--out",
             tmp_path / "out"]  # fmt: skip
    summary = json.loads(icr(*words, "--json", cwd=tmp_path).stdout)
    words[2] = f"./{Path(str(ours)).relative_to(tmp_path)}"
    assert json.loads(icr(*words, "--json", cwd=tmp_path).stdout) == summary  # the same folder, said otherwise
    assert summary["judge"] == "my_judge:Longer" and summary["languages"]["de"]["win_rate"] == pytest.approx(200 / 3)
    wrong = icr(*words[:4], "Longer", *words[5:], code=2, cwd=tmp_path).stderr
    assert "unknown judge Longer" in wrong and "module:Class" in wrong
