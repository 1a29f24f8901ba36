"""A reward of the user's own: the example, what it sees, and what goes wrong with it."""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.base.files import write_text
from icr.config.load import dump_config, load_config
from icr.rounds.stages.score import score
from tests.conftest import TEXTS, Config
from tests.helpers.command import icr
from tests.helpers.independent import rows
from tests.helpers.kinds import ALPHA, OWN, response_text, reward_rows
from tests.malformed.bench import run_here

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("by_file", [True, False])
def test_the_reward_of_the_examples(make_round: Any, tmp_path: Path, monkeypatch: Any, by_file: bool) -> None:
    shutil.copy(ROOT / "examples" / "short_paragraphs.py", tmp_path / "my_reward.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_reward", raising=False)
    name = "my_reward.py:ShortParagraphs" if by_file else "my_reward:ShortParagraphs"
    context = make_round(name)
    score(context)
    for lang in TEXTS:
        for response, reward in reward_rows(context, lang):
            size = len(response["response"])
            value = -size / 100 + (response["finish_reason"] == "stop") - ALPHA * size
            assert reward["reward"] == pytest.approx(value, abs=1e-12)
    assert json.loads(context.round.lengths.read_text())["es"]["scale"] == name


def test_a_reward_sees_what_the_guide_says(make_round: Any, tmp_path: Path) -> None:
    """Every key of the guide's table, and all samples of a prompt in one call."""
    (tmp_path / "seen.py").write_text(
        "import json, pathlib\n"
        "class Seen:\n"
        "    def rewards(self, rows):\n"
        "        with open(pathlib.Path(__file__).with_suffix('.jsonl'), 'a') as file:\n"
        "            file.write(json.dumps(rows) + '\\n')\n"
        "        return [0.5 * row['sample'] for row in rows]\n"
    )
    context = make_round(f"{tmp_path / 'seen.py'}:Seen")
    score(context)
    calls = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert sum(map(len, calls)) == 54
    for call in calls:
        groups = defaultdict(list)
        for row in call:
            groups[row["prompt_id"], row["lang"]].append(row["sample"])
        assert all(samples == [0, 1, 2] for samples in groups.values())
    row = next(r for call in calls for r in call if (r["prompt_id"], r["lang"], r["sample"]) == ("p3", "es", 2))
    assert row["prompt"] == TEXTS["es"].format(n=3) and row["english"] == TEXTS["en"].format(n=3)
    assert row["messages"] == wrap_text(row["prompt"]) and row["english_messages"] == wrap_text(row["english"])
    assert (row["response"], row["finish_reason"]) == (response_text("es", 3, 2), "length")
    assert set(row) == {
        "prompt_id", "lang", "sample", "prompt", "english", "messages", "english_messages", "response", "token_ids",
        "finish_reason",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Nan", r"returned nan\n.*sample 1"),
        ("Short", "returned 1 numbers for"),
        ("Fails", "KeyError: 'missing'"),
        ("Arguments", "Arguments cannot be created"),
    ],
)
def test_a_reward_that_goes_wrong(make_round: Any, tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "own_reward.py").write_text(OWN)
    with pytest.raises(UserError, match=what):
        score(make_round(f"{tmp_path / 'own_reward.py'}:{name}"))


def test_problems_are_known_before_anything_runs(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "own_reward.py").write_text(OWN)
    own = tmp_path / "own_reward.py"
    for kind, what in {
        "model": "the reward model is missing",
        "absent_module:X": "ModuleNotFoundError",
        f"{own}:Missing": "its classes are Vowels, Nan",
        f"{own}:Nothing": "Nothing has no method rewards",
        "cross-lingul": "`reward.kind`",
    }.items():
        config = tiny_config(tmp_path / "c", reward={"kind": kind}, judge={"kind": "none"})
        both = [run_here(["validate", config]), run_here(["iterate", "--config", config])]
        assert [(done.code, done.err.count(what)) for done in both] == [(2, 1), (2, 1)], both
        assert not (tmp_path / "c" / "run" / "round-1").exists()


def test_a_round_by_the_command_line(tiny_config: Config, tmp_path: Path) -> None:
    """Real workers: the class reaches them from the folder of the command, and pairs come out."""
    (tmp_path / "own_reward.py").write_text(OWN)
    changes = {"reward": {"kind": "own_reward:Vowels"}, "judge": {"kind": "none"}, "rounds": 1}
    config = tiny_config(tmp_path, **changes)
    write_text(tmp_path / "run" / "config.yaml", dump_config(load_config(config)))
    for stage in ("sample", "score", "pair"):
        icr(stage, "--run", tmp_path / "run", "--round", 1, cwd=tmp_path)
    pairs = rows(tmp_path / "run" / "round-1" / "pairs.parquet")
    assert pairs and all(p["chosen_reward"] > p["rejected_reward"] for p in pairs)
    icr("report", tmp_path / "run")
    assert "own_reward:Vowels" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
