"""Stage "pair" where responses are the same: no pair of equal texts, all of them counted, and a way on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.base.files import read_rows
from icr.rounds.context import Context
from icr.rounds.stages.pair import pair
from icr.rounds.stages.score import score
from tests.helpers.kinds import WORDS, make_context


@pytest.fixture
def collapsed(tiny_config: Callable[..., Path], tiny_pair: tuple[Path, Path], tmp_path: Path) -> Callable[..., Context]:
    """A round whose responses are all the same, except to the prompts `unlike`."""

    def made(*unlike: int) -> Context:
        def text(lang: str, n: int, k: int) -> str:
            return WORDS[lang].format(n=n, k=k if n in unlike else 0)

        context = make_context(tmp_path, tiny_config, tiny_pair, text=text, reward={"kind": "random"})
        score(context)
        return context

    return made


def test_equal_responses_make_no_pair_and_are_counted(collapsed: Callable[..., Context]) -> None:
    context = collapsed(2, 5)
    counts = pair(context)
    assert counts["pairs"] == 6
    for lang in ("en", "es", "ru"):
        of_lang = counts["languages"][lang]  # type: ignore[index]
        assert (of_lang["prompts"], of_lang["pairs"], of_lang["dropped"]["identical"]) == (6, 2, 4)
    rows = read_rows(context.round.pairs)
    assert {row["prompt_id"] for row in rows} == {"p2", "p5"} and all(r["chosen"] != r["rejected"] for r in rows)


def test_a_round_without_a_pair_says_why_and_what_goes_on(collapsed: Callable[..., Context]) -> None:
    context = collapsed()
    with pytest.raises(UserError) as caught:
        pair(context)
    assert caught.value.what == "no prompt gives a pair (en: 6 identical; es: 6 identical; ru: 6 identical)"
    assert "new run with a higher sampling.temperature" in caught.value.do and "--from" not in caught.value.do
    assert not context.round.pairs.exists()
    second = replace(context, round=context.run.round(2))
    context.round.path.rename(second.round.path)
    with pytest.raises(UserError) as caught:
        pair(second)
    assert f"--from {context.run.round(1).path} starts it from the round before" in caught.value.do
