"""Steps: keys, order, and what is said when a finished one no longer fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.base.rundir import StageRecord
from icr.work.steps import (
    Graph,
    Record,
    Step,
    adopt,
    check_finished,
    find_done,
    is_done,
    show,
    stale,
    stamp,
)

CONFIG = Path("runs/a/config.yaml")
MADE_FROM = ("key", "inputs", "settings")


def make_steps(temperature: float = 0.9, rate: float = 5e-7, prompts: str = "es1", **more: str) -> list[Step]:
    """Two rounds of a small run."""
    steps: list[Step] = []
    policy = "org/policy@1"
    for n in (1, 2):
        inputs = {"policy": policy, "prompts in es": prompts, **more}
        sample = Step(f"round-{n}/sample", inputs, {"sampling.temperature": temperature, "round": n})
        score = Step(f"round-{n}/score", {"responses": sample.key, "policy": policy}, {"reward.beta": 0.1})
        train = Step(f"round-{n}/train", {"pairs": score.key, "policy": policy}, {"train.learning_rate": rate})
        policy = train.key
        steps += [sample, score, train]
    return steps


def record(step: Step, state: str = "done") -> Record:
    return stamp(step, StageRecord.model_validate({"state": state, "started": 1.0}))


def records(steps: list[Step], done: int) -> dict[str, Record]:
    return {step.name: record(step) for step in steps[:done]}


def test_a_record_keeps_all_that_it_had() -> None:
    old = StageRecord(state="done", started=1.0, finished=3.0, seconds=2.0, counts={"n": 1}, versions={"icr": "0.1"})
    step = Step("round-1/sample", {"policy": "p"}, {"a": [1, 2.5, None, True, "x"]})
    made = stamp(step, old)
    assert made.model_dump() == {
        **old.model_dump(),
        "key": step.key,
        "inputs": {"policy": "p"},
        "settings": {"a": [1, 2.5, None, True, "x"]},
    }
    assert Record.model_validate_json(made.model_dump_json()) == made
    earlier = StageRecord.model_validate_json(made.model_dump_json()).model_dump()  # which may have no such fields
    assert all(earlier[name] == value for name, value in old.model_dump().items() if name not in MADE_FROM)
    bare = Record.model_validate_json('{"state": "done", "started": 1.0}')
    assert (bare.key, bare.inputs, bare.settings) == ("", {}, {})


def test_a_record_read_again_has_the_steps_key() -> None:
    step = Step("round-1/train", {}, {"train.epochs": 1.0, "train.lora.target_modules": ["q", "v"]})
    read = Record.model_validate_json(record(step).model_dump_json())
    assert Step(step.name, read.inputs, read.settings).key == read.key == step.key


def test_a_graph_keeps_an_order_that_works_and_corrects_one_that_does_not() -> None:
    steps = make_steps()
    assert Graph(steps).steps == tuple(steps)
    late = Step("round-0/judge", after=("round-1/train",))
    names = [step.name for step in Graph([late, *reversed(steps)]).steps]
    assert names == [
        "round-1/sample", "round-1/score", "round-1/train",
        "round-0/judge", "round-2/sample", "round-2/score", "round-2/train",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ([Step("a"), Step("b"), Step("a")], r"two steps have one name: \['a'\]"),
        ([Step("a", after=("b", "c")), Step("c")], r"steps come after ones that are not there: \['b'\]"),
        ([Step("a", after=("b",)), Step("b", after=("a",))], "steps wait for each other: [ab] → [ab] → [ab]"),
        ([Step("a", after=("a",))], "steps wait for each other: a → a"),
    ],
)
def test_a_graph_that_cannot_be_is_a_programming_error(steps: list[Step], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Graph(steps)


def test_pending_and_ready() -> None:
    steps = [*make_steps(), Step("round-1/judge", after=("round-1/train",)), Step("free")]
    graph, found = Graph(steps), records(steps, 1)
    assert [s.name for s in graph.pending(found)] == [s.name for s in graph.steps[1:]]
    assert graph.ready("round-1/sample", {}) and graph.ready("round-1/score", found) and graph.ready("free", {})
    assert not graph.ready("round-1/score", {}) and not graph.ready("round-1/train", found)
    assert [s.name for s in graph.missing("round-1/judge", found)] == ["round-1/score", "round-1/train"]
    for state in ("running", "failed"):
        partly = {**found, "round-1/score": record(steps[1], state)}
        assert graph.pending(partly) == graph.pending(found) and not graph.ready("round-1/train", partly)
    assert graph.pending(records(list(graph.steps), 99)) == []


def test_a_finished_step_with_another_key_is_not_done_again_in_silence() -> None:
    old, new = make_steps(), make_steps(temperature=0.5)
    assert is_done(old[0], record(old[0])) and not is_done(old[0], None)
    for wrong in (record(old[0]), Record(state="done", started=1.0)):
        with pytest.raises(ValueError, match="the finished step round-1/sample has another key than its record"):
            Graph(new).pending({"round-1/sample": wrong})


def refusal(steps: list[Step], found: Mapping[str, Record]) -> str:
    with pytest.raises(UserError) as caught:
        check_finished(steps, found, CONFIG)
    return str(caught.value)


def test_what_fits_passes() -> None:
    steps = make_steps()
    for done in range(len(steps) + 1):
        check_finished(steps, records(steps, done), CONFIG)
    unfinished = {**records(steps, 2), "round-1/train": record(steps[2], "running")}
    check_finished(make_steps(rate=1e-6), unfinished, CONFIG)  # nothing finished depends on it
    check_finished(steps, {**records(steps, 6), "round-3/sample": record(make_steps(0.1)[0])}, CONFIG)


def test_a_changed_setting_is_refused_with_both_values_and_what_follows() -> None:
    found = records(make_steps(), 2)
    assert refusal(make_steps(temperature=0.5), found) == (
        "finished steps of this run were made with other settings or files:\n"
        "    round 1 sample\n"
        "        sampling.temperature: 0.9 → 0.5\n"
        "    and the steps made from these: round 1 score\n"
        "  where: runs/a/config.yaml\n"
        "  do:    restore the old value or file, or use another --run folder"
    )


def test_a_changed_file_is_refused_by_name_and_each_changed_step_is_listed_once() -> None:
    found = records(make_steps(model="m"), 5)
    assert refusal(make_steps(prompts="es2", rate=1e-6, template="t"), found) == (
        "finished steps of this run were made with other settings or files:\n"
        "    round 1 sample\n"
        "        the prompts in es changed since round 1 was sampled\n"
        "        gone since round 1 was sampled: the model\n"
        "        new since round 1 was sampled: the template\n"
        "    round 1 train\n"
        "        train.learning_rate: 5e-07 → 1e-06\n"
        "    round 2 sample\n"
        "        the prompts in es changed since round 2 was sampled\n"
        "        gone since round 2 was sampled: the model\n"
        "        new since round 2 was sampled: the template\n"
        "    and the steps made from these: round 1 score, round 2 score\n"
        "  where: runs/a/config.yaml\n"
        "  do:    restore the old value or file, start a new run from a finished round "
        "(--from runs/a/round-1 --run NEW), or use another --run folder"
    )


def test_the_last_trained_round_is_the_one_to_start_from() -> None:
    assert "(--from runs/a/round-2 --run NEW)" in refusal(make_steps(rate=1e-6), records(make_steps(), 6))


def test_the_order_in_which_steps_are_given_does_not_matter() -> None:
    found = records(make_steps(), 6)
    changed = make_steps(temperature=0.5)
    assert refusal(changed[::-1], found) == refusal(changed, found)


def test_a_change_is_seen_through_a_step_that_is_not_done() -> None:
    found = records(make_steps(), 3)
    del found["round-1/score"]
    assert "and the steps made from these: round 1 train" in refusal(make_steps(temperature=0.5), found)


def test_settings_that_begin_or_cease_to_count_are_said_to() -> None:
    old = Step("round-0/align", {}, {"train.lora.rank": 16, "same": 1})
    new = Step("round-0/align", {}, {"reward.model": None, "same": 1.0})
    text = refusal([new], {"round-0/align": record(old)})
    assert "        train.lora.rank: 16 → not used\n        reward.model: not used → not set\n" in text
    assert "same" not in text and "--from runs/a/round-0 --run NEW" in text


def test_true_is_not_1_and_1_is_1_point_0() -> None:
    step = Step("round-1/score", {}, {"a": True, "b": 1.0})
    check_finished([step], {"round-1/score": record(Step("round-1/score", {}, {"a": True, "b": 1}))}, CONFIG)
    text = refusal([step], {"round-1/score": record(Step("round-1/score", {}, {"a": 1, "b": 1}))})
    assert "        a: 1 → true\n" in text and "b:" not in text


def test_a_key_of_another_making_is_refused_too() -> None:
    step = make_steps()[0]
    made = record(step).model_copy(update={"key": "0" * 64})
    assert "        made by another version of icr, which did this step differently\n" in refusal(
        [step], {step.name: made}
    )


def test_words_for_steps_outside_rounds() -> None:
    old, new = (Step("en-es/transfer", {"data": value}) for value in "12")
    assert "the data changed since en-es transfer was done" in refusal([new], {old.name: record(old)})
    old, new = (Step("round-2/judge/nlp", {"tasks": value}) for value in "12")
    assert "the tasks changed since round 2 was judged" in refusal([new], {old.name: record(old)})


def test_records_of_older_runs_are_adopted_where_the_old_settings_are_the_same() -> None:
    steps = make_steps()
    old = StageRecord(state="done", started=1.0, seconds=5.0, counts={"n": 3})
    adopted = adopt(steps[0], old, {"round": 1.0, "sampling.temperature": 0.9})
    assert adopted == stamp(steps[0], old) and adopted.key == steps[0].key and adopted.counts == {"n": 3}
    check_finished(steps, {steps[0].name: adopted}, CONFIG)
    assert adopt(make_steps(0.1)[0], adopted, {}) is adopted  # it has a key


def test_records_of_older_runs_under_other_settings_are_refused_like_any() -> None:
    steps, old = make_steps(temperature=0.5), StageRecord(state="done", started=1.0)
    before = {step.name: step.settings for step in make_steps()}
    found = {step.name: adopt(step, old, before[step.name]) for step in steps[:3]}
    assert refusal(steps, found) == refusal(steps, records(make_steps(), 3))
    running = adopt(steps[0], StageRecord(state="running", started=1.0), before[steps[0].name])
    assert stale(steps[0], running) == ["sampling.temperature: 0.9 → 0.5"]


def test_a_record_without_key_cannot_be_checked() -> None:
    step, bare = make_steps()[0], Record(state="done", started=1.0)
    with pytest.raises(ValueError, match="the record of round-1/sample has no key"):
        check_finished([step], {step.name: bare}, CONFIG)
    with pytest.raises(ValueError, match="the record of round-1/sample has no key"):
        stale(step, bare)


def test_partial_work_is_stale_once_what_it_is_made_from_changes() -> None:
    step = make_steps()[1]
    assert stale(step, record(step, "running")) == []
    changed = make_steps(temperature=0.5)[1]
    assert stale(changed, record(step, "failed")) == ["the responses changed since round 1 score was started"]


def test_a_finished_step_of_another_run_is_found_by_its_key() -> None:
    steps = make_steps()
    wanted = steps[1].key
    unfinished = {steps[1].name: record(steps[1], "running")}
    others = {"a": records(steps, 1), "b": unfinished, "c": {"round-7/score": record(steps[1])}, "d": records(steps, 6)}
    assert find_done(wanted, others) == ("c", "round-7/score")
    assert find_done(wanted, {name: others[name] for name in "ab"}) is None
    assert find_done(make_steps(0.5)[1].key, others) is None
    assert find_done("", {"a": {"round-1/score": Record(state="failed", started=1.0)}}) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "not set"),
        ("initial", "initial"),
        ("", '""'),
        ("a\nb", '"a\\nb"'),
        (True, "true"),
        (5e-7, "5e-07"),
        (1.0, "1.0"),
        (["en", "es"], "[en, es]"),
        ({"arc": 25}, '{"arc": 25}'),
    ],
)
def test_values_are_shown_in_one_line(value: object, shown: str) -> None:
    assert show(value) == shown


def test_a_changed_key_is_named_as_the_users_file_has_it() -> None:
    was = stamp(
        Step("a", settings={"train.epochs": 1, "trainer": 1, "loss": "x"}), StageRecord(state="running", started=0)
    )
    elsewhere = {"train": "reward_model.train", "loss": "reward_model.loss"}
    now = Step("a", settings={"train.epochs": 2, "trainer": 2}, elsewhere=elsewhere)
    assert now.key == Step("a", settings=now.settings).key
    assert stale(now, was) == [
        "reward_model.train.epochs: 1 → 2",
        "trainer: 1 → 2",
        "reward_model.loss: x → not used",
    ]
