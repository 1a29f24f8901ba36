"""A row without a column that its form needs, behind one that is fine: named with its line, in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icr.base.conversation import dump_conversation
from prompts.preferences.forms import FORMS as KNOWN
from tests.prompts.preferences.test_forms import FORMS, SEAHORSE, messages, read

MISSING: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "texts": (FORMS["texts"], {"chosen": "a text in `chosen`", "rejected": "a text in `rejected`"}),
    "messages": (
        FORMS["TRL's explicit prompt"],
        {"prompt": "a conversation without messages", "chosen": "a text in `chosen`", "rejected": "text in `rejected`"},
    ),
    "implicit": (FORMS["TRL's implicit prompt"], {"chosen": "`chosen`", "rejected": "`rejected`"}),
    "ultrafeedback": (
        FORMS["UltraFeedback"],
        {"chosen": "a text in `chosen`", "rejected": "a text in `rejected`",
         "score_chosen": "`score_chosen` is missing", "score_rejected": "`score_rejected` is missing"},
    ),
    "hh": (FORMS["HH"], {"chosen": "`chosen` is missing", "rejected": "`rejected` is missing"}),
    "llamafactory": (
        FORMS["LLaMA-Factory"],
        {"conversations": "`conversations` is not a list", "chosen": "`chosen`", "rejected": "`rejected`"},
    ),
    "helpsteer3": (
        FORMS["HelpSteer3"],
        {"context": "a text in `prompt`", "response1": "`response1` is missing", "response2": "`response2` is missing",
         "overall_preference": "`overall_preference` is missing"},
    ),
    "ratings": (
        {"prompt": "Q?", "response": "A", "label": 1},
        {"response": "`response` is missing", "label": "`label` is missing"},
    ),
    "icr": (
        {"id": "1", "lang": "en", "prompt": dump_conversation([{"role": "user", "content": "Q?"}]), "chosen": "A",
         "rejected": "B", "source": "s", "group": "g"},
        {"prompt": "`prompt` is missing", "chosen": "`chosen` is missing", "rejected": "`rejected` is missing"},
    ),
    "seahorse": (
        dict.fromkeys(SEAHORSE, "Yes") | {"worker_lang": "de"},
        {"summary": "`summary` is missing", "question6": "no column question6"},
    ),
    "oasst": (
        messages()[1],
        {"message_id": "`message_id` is missing", "role": "has the role None", "text": "`text` is missing",
         "parent_id": "message a9 of the assistant does not answer a message"},
    ),
}  # fmt: skip
"""Form → a row, and what is said where a column is missing. Other columns may be."""


def test_all_forms_are_here() -> None:
    """`oasst-trees` are the messages of `oasst` in other brackets; `trl` is the first three."""
    assert KNOWN.keys() - {"oasst-trees", "trl"} <= MISSING.keys()


@pytest.mark.parametrize("name", MISSING)
def test_a_row_of_any_form_with_a_missing_column(tmp_path: Path, name: str) -> None:
    row, columns = MISSING[name]
    before = messages() if name == "oasst" else [{**row, "id": "1"}]
    kept = len(read(tmp_path, before).pairs) or len(read(tmp_path, before).ratings)
    for column, what in columns.items():
        own = {"message_id": "a9", "rank": 9} if name == "oasst" else {"id": "2"}
        bad = {key: value for key, value in {**row, **own}.items() if key != column}
        found = read(tmp_path, [*before, bad])
        (problem,) = found.problems
        assert what in problem.what and problem.where.endswith(f"source.jsonl:{len(before) + 1}") and problem.do
        assert len(found.pairs) + len(found.ratings) == kept
