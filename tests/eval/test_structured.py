"""`judge.structured`: a verdict as JSON with one of the labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.judges.prompts import built_in
from eval.mtbench.grade import points_of
from tests.helpers.endpoints import item, judge, shares, verdicts_on
from tests.helpers.stub_server import Answer, Stub, completion, says

VERDICT = {"type": "string", "enum": ["A", "B"]}


def test_a_label_is_asked_for_as_json_and_read_from_it(tmp_path: Path) -> None:
    with Stub(lambda request, before: says('{"verdict": "B"}')) as stub:
        assert shares(verdicts_on(judge(tmp_path, stub.url, structured=True), item())) == [0.0]
        ((_, request, _),) = stub.sent
    form = request["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"] == {
        "type": "object", "properties": {"verdict": VERDICT}, "required": ["verdict"], "additionalProperties": False,
    }  # fmt: skip


def test_probabilities_count_where_the_label_is_in_the_json(tmp_path: Path) -> None:
    tokens = [{"token": token, "logprob": 0.0, "top_logprobs": []} for token in ('{"', "verdict", '":', ' "')]
    tops = [{"token": "B", "logprob": -0.5}, {"token": "A", "logprob": -1.0}]
    tokens.append({"token": "B", "logprob": -0.5, "top_logprobs": tops})
    choice: dict[str, Any] = {"message": {"content": '{"verdict": "B"}'}, "logprobs": {"content": tokens}}
    with Stub(lambda request, before: completion([choice])) as stub:
        (found,) = shares(verdicts_on(judge(tmp_path, stub.url, structured=True), item()))
    assert found == pytest.approx(1 / (1 + 2.718281828459045**0.5))


def test_an_explanation_comes_before_its_verdict(tmp_path: Path) -> None:
    prompts = built_in()["mtbench"]
    question = replace(item(), labels=prompts.labels, explained=True, graded=True)

    def script(request: dict[str, Any], before: int) -> Answer:
        schema = request["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"]) == ["explanation", "verdict"] and schema["required"][-1] == "verdict"
        return says(json.dumps({"explanation": "Better than [[3]].", "verdict": "10"}))

    with Stub(script) as stub:
        (verdict,) = verdicts_on(judge(tmp_path, stub.url, structured=True), question)
    assert verdict.expect(points_of(prompts)) == 10.0


@pytest.mark.parametrize("text", ['{"verdict": 3}', '{"verdict": null}', '{"other": "A"}', "{["])
def test_other_json_is_no_verdict_and_no_error(text: str, tmp_path: Path) -> None:
    with Stub(lambda request, before: says(text)) as stub:
        question = replace(item(), explained=True)
        (verdict,) = verdicts_on(judge(tmp_path, stub.url, structured=True), question)
    assert verdict.reason == "verdict outside the labels"
