"""Translations that do not hold: dropped from their language, counted by reason, and kept to look at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from icr.base.conversation import wrap_text
from prompts.load import load_prompts
from tests.helpers.stub_server import Answer, Stub, completion, fault, says
from tests.helpers.translating import language_of, report, rows, text_of, translate
from tests.prompts.test_prompts import put, row

FUNCTION = "```python\ndef f(xs):\n    return xs[::-1]\n```"
ENGLISH = {
    "fine": "Name 11 animals that live in the sea.",
    "empty": "Name 12 animals that live in the sea.",
    "copy": "Name 13 animals that live in the sea.",
    "language": "Name 14 animals that live in the sea.",
    "length": "Name 15 animals that live in the sea.",
    "code": f"What does this function do?\n{FUNCTION}",
    "numbers": "Name 16 animals that live in the sea.",
    "cut": "Name 17 animals that live in the sea.",
    "refusal": "Name 18 animals that live in the sea.",
    "filter": "Name 19 animals that live in the sea.",
    "http": "Name 20 animals that live in the sea.",
    "tags": "Name 21 animals that live in the sea, please: {language} {text}",
}
ANSWERS = {
    "fine": says("Nombra 11 animales que viven en el mar."),
    "empty": says("  "),
    "copy": says(ENGLISH["copy"]),
    "language": says("Nomme 14 animaux qui vivent dans la mer, s'il te plaît."),
    "length": says("Nombra 15 animales que viven en el mar. " * 4),
    "code": says(f"¿Qué hace esta función de aquí?\n{FUNCTION.replace('return', 'devuelve')}"),
    "numbers": says("Nombra diez y seis animales que viven en el mar."),
    "cut": completion([{"message": {"content": "Nombra 17 animales que vi"}, "finish_reason": "length"}]),
    "refusal": says(None, refusal="I cannot help with animals."),
    "filter": completion([{"message": {"content": None}, "finish_reason": "content_filter"}]),
    "http": fault(400, "no fish"),
    "tags": says("<text>\nNombra 21 animales que viven en el mar, por favor: {language} {text}\n</text>"),
}
REASONS = {
    "empty": "empty",
    "copy": "untranslated",
    "language": "wrong language",
    "length": "length",
    "code": "code changed",
    "numbers": "numbers missing",
    "cut": "truncated",
    "refusal": "refused",
    "filter": "refused",
    "http": "no answer",
}


def test_whatever_is_dropped_is_counted_by_reason_and_kept_to_look_at(tmp_path: Path) -> None:
    id_of = {text: id for id, text in ENGLISH.items()}

    def script(request: dict[str, Any], before: int) -> Answer:
        text = text_of(request)
        if language_of(request) == "es":
            return ANSWERS[id_of[text]]
        words = "สวัสดี โปรดบอกชื่อสัตว์ที่อาศัยอยู่ในทะเล "
        return says(words + " ".join(re.findall(r"\d\d", text)) + f"\n{FUNCTION}" * ("def" in text))

    put(tmp_path / "in", "en", *(row(id, text) for id, text in ENGLISH.items()))
    out = tmp_path / "out"
    with Stub(script) as stub:
        done = translate(tmp_path / "in", out, stub.url, "--to", "es,th")
    assert done.returncode == 0, done.stderr
    kept = {r["instruction_id"]: r["instruction"] for r in rows(out / "es.jsonl")}
    assert kept == {
        "fine": "Nombra 11 animales que viven en el mar.",
        "tags": "Nombra 21 animales que viven en el mar, por favor: {language} {text}",
    }
    dropped = {r["instruction_id"]: r for r in rows(out / "translation_dropped.jsonl")}
    assert {id: r["reasons"][0] for id, r in dropped.items()} == REASONS
    assert "HTTP 400" in dropped["http"]["details"][0] and "no fish" in dropped["http"]["details"][0]
    assert dropped["refusal"]["details"] == ["I cannot help with animals."]
    assert dropped["numbers"]["translation"] == "Nombra diez y seis animales que viven en el mar."
    counts = report(out)["languages"]["es"]
    assert (counts["prompts"], counts["kept"], counts["name"]) == (12, 2, "Spanish")
    assert counts["reasons"] == {**dict.fromkeys(REASONS.values(), 1), "refused": 2}
    assert "2 refused" in " ".join(done.stdout.split())
    # what is dropped in one language stays in the others
    assert report(out)["languages"]["th"]["kept"] == 12
    found = load_prompts(str(out), ["en", "es", "th"])
    assert [p.lang for p in found if p.id == "copy"] == ["en", "th"]
    assert all(p.english == wrap_text(ENGLISH[p.id]) for p in found)
