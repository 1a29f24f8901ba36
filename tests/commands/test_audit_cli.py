"""`icr judge audit` on an evaluation by an endpoint: its figures, and what it asks again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.commands.test_judge_cli import KEY, icr, write_public
from tests.helpers.pages import Page, assert_sound
from tests.helpers.stub_server import Answer, Stub, says

HOSTILE = '</article><script>alert(1)</script> {{ 7*7 }} \x1b[31m" onclick="x'


def first_or_long(request: dict[str, Any], before: int) -> Answer:
    """Says A unless the other answer is five times as long; a question that is asked again gets B instead of A."""
    text = request["messages"][-1]["content"]
    first, second = text.split(" ANSWER A]\n")[1].split("\n[")[0], text.split(" ANSWER B]\n")[1].split("\n[")[0]
    return says("B" if len(second) > 5 * len(first) or before else "A")


def test_an_audit_asks_again_once_and_shows_what_it_found(tmp_path: Path) -> None:
    ours = write_public(tmp_path / "ours", "us", "de", {n: f"Antwort {n} {HOSTILE} " * (n % 4 + 1) for n in range(12)})
    theirs = write_public(
        tmp_path / "theirs", "them", "de", dict.fromkeys(range(12), "Eine andere, immer gleich lang.")
    )
    people = tmp_path / "people.csv"
    people.write_text("id,label\n" + "".join(f"{n},{'model' if n % 4 > 1 else 'baseline'}\n" for n in range(12)))
    out, page = tmp_path / "out", tmp_path / "verdicts.html"
    with Stub(first_or_long) as stub:
        words = ["--set", f"judge.base_url={stub.url}", "--set", "judge.cache=none"]
        judge = ["judge", "xalpaca", ours, "--judge", "openai:m", "--baseline", theirs, "--languages", "de"]
        done = icr(*judge, "--out", out, *words, key=KEY)
        assert done.returncode == 0, done.stderr
        asked = len(stub.sent)
        audit = ["judge", "audit", out, "--human", people, "--repeats", "2", "--sample", "5", *words]
        done = icr(*audit, "--page", page, "--json", key=KEY)
        assert done.returncode == 0, done.stderr
        assert asked == 24 and len(stub.sent) == 24 + 2 * 2 * 5
        again = icr(*audit, key=KEY)
        assert again.returncode == 0 and len(stub.sent) == 24 + 20, again.stderr
    found = json.loads(done.stdout)
    de = found["languages"]["de"]
    assert (de["n"], de["labelled"], de["repeated"]) == (12, 12, 20)
    assert de["position"]["low"] > 0 and de["verbosity"]["value"] > 0
    assert de["language"]["value"] is None and "wrong language" in de["language"]["why"]
    assert de["repeats_agree"]["value"] < 60, "the stub says B where it is asked again"
    assert found == json.loads((out / "audit" / "summary.json").read_text()) | found
    assert "the same beyond chance" in again.stdout and "prediction-powered" in again.stdout
    got = Page(page.read_text(encoding="utf-8"))
    assert_sound(got)
    assert KEY not in got.html and got.text.count("{{ 7*7 }}") >= 12


def test_what_nobody_judged_cannot_be_audited(tmp_path: Path) -> None:
    done = icr("judge", "audit", tmp_path)
    assert done.returncode == 2 and "no finished evaluation found" in done.stderr
    assert "icr judge xalpaca" in done.stderr
