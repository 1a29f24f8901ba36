"""Custom classes that cannot be found, made or used."""

from __future__ import annotations

from collections.abc import Iterator

from tests.malformed.bench import Bench, Case

HEAD = "from loops.objective import PairObjective\n"
LOSS = "    def loss(self, logps):\n        return logps.policy_chosen, {}\n"


def plugin(key: str, name: str, code: str, *says: str, named: str = "own.py:Own", end: int = 2) -> Case:
    """A config whose `key` names a class in own.py."""

    def make(bench: Bench) -> list[object]:
        path = bench.write("own.py", code)
        value = named.replace("own.py", str(path))
        judge = {"judge.model": "", "judge.prompts": str(bench.heldout)} if key == "judge.kind" else {}
        return ["validate", bench.config({key: f"'{value}'", **judge})]

    return Case(f"{key}: {name}", make, (key, *says) if end else says, end)


def cases() -> Iterator[Case]:
    for key, method in (("reward.kind", "rewards"), ("judge.kind", "preferences"), ("objective", "loss")):
        yield plugin(key, "no such file", "", "none.py", named="none.py:Own")
        yield plugin(key, "no such module", "", "no_such_module", named="no_such_module:Own")
        yield plugin(key, "no such class", "class Other:\n    pass\n", "no class Own", "Other")
        yield plugin(key, "a function", "def Own():\n    pass\n", "no class Own")
        yield plugin(key, "wrong Python", "class Own:\n    def\n", "cannot be imported", "line 2")
        yield plugin(key, "raises", "raise ValueError('no weights')\n", "cannot be imported", "ValueError: no weights")
        yield plugin(key, "exits", "import sys\nsys.exit(0)\n", "cannot be imported", "SystemExit")
        yield plugin(key, "recurses", "def f():\n    f()\nf()\n", "cannot be imported", "RecursionError")
        yield plugin(key, "imports what is not there", "import no_such_library\n", "no_such_library")
        yield plugin(key, "lacks the method", f"{HEAD}class Own(PairObjective):\n    pass\n", method)
    yield plugin("reward.kind", "a method that is a number", "class Own:\n    rewards = 3\n", "rewards")
    yield plugin("objective", "derives from nothing", f"class Own:\n{LOSS}", "is not an objective", "PairObjective")
    yield plugin(
        "objective",
        "cannot be made",
        f"{HEAD}class Own(PairObjective):\n    def __init__(self):\n        pass\n{LOSS}",
        "cannot be created",
        "beta and nll_weight",
    )
    yield plugin(
        "objective",
        "raises when it is made",
        f"{HEAD}class Own(PairObjective):\n    def __init__(self, **settings):\n        raise KeyError('x')\n{LOSS}",
        "cannot be created",
        "KeyError",
    )
    yield plugin("objective", "good", f"{HEAD}class Own(PairObjective):\n{LOSS}", "is fine", end=0)
    yield plugin("judge.kind", "cannot grade", "class Own:\n    def preferences(self, rows):\n        return []\n",
                 "is fine", end=0)  # fmt: skip
