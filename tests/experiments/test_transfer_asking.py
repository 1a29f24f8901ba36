"""`icr transfer` with an endpoint judge: verdicts come while the next cells are done, and the tables are the same."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr.base.files import read_json
from icr.config.load import load_section
from icr.config.transfer import TransferConfig
from icr.experiments import transfer_candidates
from icr.experiments.cells import Outcome, run_cells
from icr.experiments.transfer import run_transfer
from tests.conftest import write_prompts
from tests.helpers.inline import ask_inline, run_inline, silent
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows
from tests.helpers.stub_server import Answer, Stub, says

pytestmark = pytest.mark.timeout(600)
TRAIN = {
    "learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 8, "epochs": 1, "precision": "fp32",
    "deepspeed": "none", "gradient_checkpointing": False,
}  # fmt: skip
SAMPLING = {"n": 2, "backend": "transformers", "precision": "fp32", "max_tokens": 8, "shard_size": 4}


@pytest.fixture
def load(tiny_pair: tuple[Path, Path], tmp_path: Path) -> Callable[[Path, Stub], TransferConfig]:
    """Of the run folder and the judge's endpoint."""
    base, data = make_encoder(tmp_path / "encoder"), make_folder(tmp_path / "pairs", pair_rows(24))
    numbers = {"judged": range(1, 5), "trained": range(11, 19)}
    prompts = [str(write_prompts(tmp_path / name, of)) for name, of in numbers.items()]

    def make(folder: Path, stub: Stub) -> TransferConfig:
        content = {
            "run": str(folder),
            "base": str(base),
            "languages": {"sources": ["en"], "targets": ["es"]},
            "data": {"preferences": str(data), "prompts": prompts[0]},
            "reward_model": {"train": TRAIN},
            "align": {
                "policy": str(tiny_pair[0]),
                "judged": "all",
                "best_of_n": SAMPLING,
                "dpo": {"prompts": prompts[1], "train": TRAIN},
            },
            "judges": [{"kind": "openai", "model": "m", "base_url": stub.url, "concurrency": 1}],
        }
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return load_section(TransferConfig, tmp_path / "x.yaml")

    return make


def one_after_the_other(cells: Any, only: str, begin: Any, note: Any, ask: Any, before: Any) -> Outcome:
    return run_cells(cells, only, begin, note)


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def run(config: TransferConfig) -> Any:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return run_transfer(config, "*", silent())


def label(request: dict[str, Any], before: int) -> Answer:
    return says("A" if len(request["messages"][-1]["content"]) % 2 else "B")


def test_verdicts_come_beside_the_next_cells_and_an_interrupted_experiment_ends_with_the_same_tables(
    load: Callable[[Path, Stub], TransferConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    together, apart, sample = tmp_path / "together", tmp_path / "apart", transfer_candidates.sample_candidates
    records = lambda: {file.parent.name: read_json(file) for file in together.glob("steps/*/step.json")}  # noqa: E731

    def interrupted(folder: Path, *of: Any) -> Any:
        """As DPO's candidates are to be sampled, while a process asks about best of n."""
        if folder.name == "dpo-samples-es":
            assert wait_until(lambda: stub.answered > 1)
            raise KeyboardInterrupt
        return sample(folder, *of)

    with Stub(lambda request, before: replace(label(request, before), delay=0.5)) as stub:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(transfer_candidates, "sample_candidates", interrupted)
            run(load(together, stub))
        assert records()["judge-m-en-es"]["state"] == "running"
        assert "wins-m-es" not in records()  # it would have been the next to ask
        met = list[bool]()

        def script(request: dict[str, Any], before: int) -> Answer:
            """The rest is answered once the command goes on with DPO."""
            if not met:
                met.append(wait_until(lambda: "dpo-samples-es" in records()))
            return label(request, before)

        stub.script = script
        ask_inline(monkeypatch)
        result, failed = run(load(together, stub))
        assert not failed and result["waiting"] == {} and met == [True]
        asked = Counter(stub.asked)
        with monkeypatch.context() as patch:
            patch.setattr("icr.experiments.transfer_cluster.run_cells", one_after_the_other)
            other, failed = run(load(apart, stub))
        assert not failed
        alone = stub.asked - asked
        assert asked.keys() == alone.keys() and sum((asked - alone).values()) <= 1  # the one that was under way
    assert result["judges"] == other["judges"]
    tables = sorted(file.name for file in (together / "tables").iterdir())
    assert "win_rates.csv" in tables and tables == sorted(file.name for file in (apart / "tables").iterdir())
    for name in tables:
        assert (together / "tables" / name).read_bytes() == (apart / "tables" / name).read_bytes(), name
