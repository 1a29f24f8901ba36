from __future__ import annotations

import pytest

from icr.base.errors import ConfigError, UserError
from icr.base.problems import Collector, keys_behind, load_and_check


def refuse(where: str, do: str) -> None:
    raise UserError("it is wrong", where=where, do=do)


def test_a_problem_names_the_keys_of_the_users_file() -> None:
    def both() -> None:
        found = Collector()
        found.attempt(None, refuse, "train.batch_size, train.epochs", "lower train.batch_size, or train more")
        found.attempt(None, refuse, "loss: x, data.loss, base: a/train.json", "write loss or auto")
        found.raise_any()

    with pytest.raises(ConfigError) as caught:
        keys_behind("align.rl.", ("train", "loss"), both)()
    one, other = caught.value.problems
    assert one.where == "align.rl.train.batch_size, align.rl.train.epochs"
    assert one.do == "lower align.rl.train.batch_size, or train more"
    assert other.where == "align.rl.loss: x, data.loss, base: a/train.json" and other.do == "write loss or auto"
    with pytest.raises(UserError) as alone:
        keys_behind("reward_model.", ("train",), refuse)("train.launcher", "")
    assert alone.value.where == "reward_model.train.launcher"


def test_what_can_be_checked_of_faulty_settings_is_checked() -> None:
    def load(partial: str | None) -> str:
        raise ConfigError([UserError("unknown key")], partial)

    with pytest.raises(ConfigError) as caught:
        load_and_check(lambda: load("the rest"), lambda found: refuse(found, "fix it"))
    assert [(problem.what, problem.where) for problem in caught.value.problems] == [
        ("unknown key", ""),
        ("it is wrong", "the rest"),
    ]
    with pytest.raises(ConfigError, match="1 problem found"):
        load_and_check(lambda: load(None), lambda found: refuse(found, "fix it"))
    assert load_and_check(lambda: "fine", lambda found: refuse(found, "fix it")) == "fine"  # who uses it checks it
