"""Which config keys count for which stage: every key is in the table, and counts where it says."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from icr.config.load import load_config
from icr.config.schema import Accuracy, Alignment, Config, Judge, Lora, Models, MtBench, Nlp, Prompts, Reward, Train
from icr.work.settings import (
    INPUT,
    ONLY_WHERE,
    OPERATIONAL,
    PLAN,
    STAGES,
    USES,
    append_history,
    is_operational,
    settings_of,
)
from icr.work.shards import shard_size

ALL = Config(
    models=Models(reference="org/reference"),
    alignment=Alignment(pairs="pairs.jsonl"),
    prompts=Prompts(path="prompts", languages=["en", "es"]),
    train=Train(lora=Lora()),
    judge=Judge(
        kind="openai",
        model="gpt",
        benchmarks=["xalpaca", "mtbench", "accuracy", "nlp"],
        mtbench=MtBench(questions="questions"),
        accuracy=Accuracy(),
        nlp=Nlp(),
    ),
)
"""A config with every section."""


def find_leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the schema that is not a section."""
    for name, info in model.model_fields.items():
        sections = [part for part in flatten(info.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if sections:
            yield from find_leaves(sections[0], f"{prefix}{name}.")
        else:
            yield prefix + name


def flatten(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from flatten(part)
    else:
        yield annotation


def change(config: Any, key: str, value: object) -> Any:
    """The config with another value, which need not be a valid one."""
    first, _, rest = key.partition(".")
    return config.model_copy(update={first: change(getattr(config, first), rest, value) if rest else value})


def with_reward(kind: str) -> Config:
    return ALL.model_copy(update={"reward": Reward(kind=kind)})


def with_judge(kind: str) -> Config:
    return ALL.model_copy(update={"judge": ALL.judge.model_copy(update={"kind": kind})})


LEAVES = list(find_leaves(Config))


def test_every_key_of_the_config_is_classified() -> None:
    """A new key of the schema fails here until the table says what depends on it."""
    assert sorted(USES) == sorted(LEAVES)
    assert "train.lora.rank" in LEAVES and "judge.nlp.few_shot" in LEAVES and "judge.base_url" in LEAVES


def test_every_class_is_one() -> None:
    for key, uses in USES.items():
        assert uses and len(set(uses)) == len(uses), key
        assert uses in ((INPUT,), (PLAN,), (OPERATIONAL,)) or set(uses) <= set(STAGES) - {"judge"}, key
    assert set(ONLY_WHERE) <= set(USES)


@pytest.mark.parametrize("key", [key for key in LEAVES if key != "judge.benchmarks"])  # that one has its own test
def test_a_key_counts_for_the_stages_that_the_table_names_and_no_others(key: str) -> None:
    value = [{"model": "changed"}] if key == "judge.judges" else "changed"  # of these, the inputs are taken out
    changed = change(ALL, key, value)
    differ = {stage for stage in STAGES if settings_of(changed, stage) != settings_of(ALL, stage)}
    expected = set(USES[key]) & set(STAGES)
    if key == "reward.kind":
        expected -= {"sample"}  # for LIDR alone
    if any(stage.startswith("judge/") for stage in expected):
        expected |= {"judge"}
    assert differ == expected
    assert all(settings_of(changed, stage)[key] == value for stage in differ)


def test_operational_keys_are_those_that_change_no_result() -> None:
    assert {key for key in USES if is_operational(key)} == {
        "run", "rounds", "stop_when", "judge.every", "judge.benchmarks",
        "sampling.tensor_parallel", "sampling.gpu_memory", "reward.batch_tokens", "reward.flip_check",
        "train.micro_batch_size", "train.gradient_checkpointing", "train.deepspeed", "train.processes", "train.nodes",
        "train.launcher", "train.save_steps", "train.save_minutes", "train.validation_steps", "train.report_to",
        "judge.concurrency", "judge.requests_per_minute", "judge.tokens_per_minute", "judge.attempts", "judge.timeout",
        "judge.batch", "judge.budget", "judge.prices", "judge.ends", "judge.cache", "judge.max_unscored",
        "judge.nlp.batch_size", "prompts.allow_overlap",
        "cluster.address", "cluster.workers", "cluster.retries", "cluster.models",
    }  # fmt: skip
    with pytest.raises(KeyError):
        is_operational("train.none")


def test_settings_are_values_by_dotted_key() -> None:
    assert settings_of(ALL, "sample") == {
        "prompts.languages": ["en", "es"],
        "prompts.limit": None,
        "sampling.backend": "auto",
        "sampling.n": 10,
        "sampling.temperature": 0.9,
        "sampling.top_p": 1.0,
        "sampling.max_tokens": 2400,
        "sampling.seed": 42,
        "sampling.precision": "auto",
        "sampling.shard_size": 512,
    }
    assert settings_of(ALL, "pair") == {}
    assert settings_of(ALL, "judge/accuracy") == {
        "judge.base_url": None,
        "judge.kind": "openai",
        "judge.model": "gpt",
        "judge.preference": "auto",
        "judge.accuracy.pairs": 100,
    }
    assert settings_of(ALL, "judge/nlp") == {
        "prompts.languages": ["en", "es"],
        "judge.nlp.tasks": "paper",
        "judge.nlp.few_shot": {},
        "judge.nlp.limit": None,
        "judge.nlp.backend": "auto",
    }
    with pytest.raises(ValueError, match="no stage tain; the stages are align, sample, score, pair, train, judge, "):
        settings_of(ALL, "tain")  # type: ignore[arg-type]


ASKED = {"judge.base_url", "judge.kind", "judge.model", "judge.preference"}
ANSWERED = {f"sampling.{key}" for key in ("backend", "precision", "seed", "shard_size")} | {"prompts.languages"}


@pytest.mark.parametrize(
    ("stage", "keys"),
    [
        ("judge/xalpaca", ASKED | ANSWERED | {
            "judge.limit", "judge.orders", "judge.max_tokens", "judge.temperature", "judge.top_p",
        }),
        ("judge/mtbench", ASKED | ANSWERED | {"judge.mtbench.limit", "judge.mtbench.max_tokens"}),
        ("score", {f"reward.{key}" for key in (
            "kind", "beta", "length_penalty", "length_unit", "precision", "drop_truncated", "drop_wrong_language"
        )}),
    ],
)  # fmt: skip
def test_keys_of_the_stages(stage: Any, keys: set[str]) -> None:
    assert settings_of(ALL, stage).keys() == keys


def test_a_training_has_its_own_settings_and_the_alignment_those_that_it_shares() -> None:
    """As `icr.training.align` puts them together: its own section in the place of the same keys of `train`."""
    own = {key.partition(".")[2] for key in LEAVES if key.startswith("alignment.")} - {"pairs", "limit"}
    train = {key for key in LEAVES if key.startswith("train.") and not is_operational(key)}
    shared = {key for key in train if key.partition(".")[2] not in own}
    assert settings_of(ALL, "train").keys() == train | {"objective"}
    assert settings_of(ALL, "align").keys() == shared | {f"alignment.{key}" for key in own | {"limit"}}


def test_keys_of_an_absent_section_are_left_out() -> None:
    plain = ALL.model_copy(update={"train": Train(), "alignment": None})
    lora = {key for key in USES if key.startswith("train.lora.")}
    assert settings_of(ALL, "train").keys() - settings_of(plain, "train").keys() == lora
    assert not [key for key in settings_of(plain, "align") if key.startswith("alignment.")]


def test_the_judge_as_one_step_has_what_its_benchmarks_have_in_any_order() -> None:
    both = change(ALL, "judge.benchmarks", ["xalpaca", "nlp"])
    expected = settings_of(ALL, "judge/xalpaca") | settings_of(ALL, "judge/nlp")
    assert settings_of(both, "judge") == expected | {"judge.benchmarks": ["nlp", "xalpaca"]}
    turned = change(ALL, "judge.benchmarks", ["nlp", "xalpaca"])
    assert settings_of(turned, "judge") == settings_of(both, "judge")
    assert settings_of(change(ALL, "judge.benchmarks", ["nlp"]), "judge") != settings_of(both, "judge")


LOG_RATIO = {"reward.beta", "reward.precision", "reward.length_penalty"}


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("cross-lingual", LOG_RATIO),
        ("multilingual", LOG_RATIO),
        ("translate", LOG_RATIO),
        ("model", {"reward.precision", "reward.length_penalty"}),
        ("random", {"reward.length_penalty"}),
        ("mine:Reward", {"reward.length_penalty"}),
        ("lidr", set()),
    ],
)
def test_a_reward_kind_has_the_settings_that_it_reads(kind: str, counts: set[str]) -> None:
    always = {"reward.kind", "reward.length_unit", "reward.drop_truncated", "reward.drop_wrong_language"}
    assert settings_of(with_reward(kind), "score").keys() == always | counts


def test_a_filter_that_came_later_counts_where_it_is_on() -> None:
    """Runs of versions without it go on."""
    on = change(ALL, "reward.reject_wrong_language", True)
    for stage in ("score", "pair"):
        assert settings_of(on, stage).keys() - settings_of(ALL, stage).keys() == {"reward.reject_wrong_language"}


def test_lidr_samples_in_its_own_way() -> None:
    lidr, other = settings_of(with_reward("lidr"), "sample"), settings_of(with_reward("random"), "sample")
    assert other.keys() - lidr.keys() == {"sampling.n", "sampling.temperature", "sampling.top_p"}
    assert lidr.keys() - other.keys() == {"reward.kind"}
    assert other == settings_of(ALL, "sample")


@pytest.mark.parametrize("kind", ["local", "mine:Judge"])
def test_a_judge_on_this_machine_is_not_known_by_what_an_endpoint_is(kind: str) -> None:
    without = {"judge.model", "judge.base_url", "judge.preference"}
    for stage in ("judge/xalpaca", "judge/mtbench", "judge/accuracy"):
        assert settings_of(ALL, stage).keys() - settings_of(with_judge(kind), stage).keys() == without
        assert settings_of(with_judge(kind), stage)["judge.kind"] == kind
    assert settings_of(with_judge(kind), "judge/nlp") == settings_of(ALL, "judge/nlp")


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text("models: {policy: a/b, reference: a/c}\nprompts: {path: p, languages: [en]}\n" + text)
    return path


def test_values_are_those_of_the_types(tmp_path: Path) -> None:
    """YAML's 1 and 1.0 are one value of a key that is a float, and 16 and 16.0 of one that is an integer."""
    one = load_config(write(tmp_path, "train: {epochs: 1, batch_size: 16.0}\nreward: {length_penalty: 0}\n"))
    two = load_config(write(tmp_path, "train: {epochs: 1.0, batch_size: 16}\nreward: {length_penalty: 0.0}\n"))
    for stage in ("train", "score"):
        assert repr(settings_of(one, stage)) == repr(settings_of(two, stage))


def test_the_history_of_a_config_is_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "config.yaml"
    first = load_config(write(tmp_path, "rounds: 1\n"))
    append_history(path, first, first, "2026-11-25 14:00:00")
    assert "#" not in path.read_text(encoding="utf-8")
    assert load_config(path) == load_config(write(tmp_path, "rounds: 1\n"))
    second = load_config(write(tmp_path, "rounds: 2\nrun: elsewhere\ntrain: {micro_batch_size: 2}\n"))
    append_history(path, first, second, "2026-11-25 15:00:00")
    third = load_config(write(tmp_path, "rounds: 2\nrun: elsewhere\ntrain: {micro_batch_size: 2, lora: {rank: 8}}\n"))
    append_history(path, second, third, "2026-11-26 09:30:00")
    append_history(path, third, third, "2026-11-26 10:00:00")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# 2026-11-25 15:00:00 rounds: 1 → 2",
        "# 2026-11-25 15:00:00 train.micro_batch_size: auto → 2",
        "# 2026-11-26 09:30:00 train.lora.rank: not set → 8",
        "# 2026-11-26 09:30:00 train.lora.alpha: not set → 32",
        "# 2026-11-26 09:30:00 train.lora.dropout: not set → 0.0",
        "# 2026-11-26 09:30:00 train.lora.target_modules: not set → all-linear",
    ]
    assert lines[-6].startswith("# ") and load_config(path) == third


def test_a_value_with_lines_of_its_own_stays_a_value_and_a_comment_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    first = load_config(write(tmp_path, ""))
    odd = change(first, "train.launcher", "srun\n# not a comment\nlast " + "word " * 40)
    append_history(path, first, odd, "2026-11-25 15:00:00")
    append_history(path, odd, odd, "2026-11-25 16:00:00")
    assert load_config(path).train.launcher == odd.train.launcher
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert len(comments) == 1 and comments[0].startswith(
        '# 2026-11-25 15:00:00 train.launcher: "" → "srun\\n# not a comment\\nlast word'
    )


def test_shards_are_smaller_on_a_gpu_and_keyed_as_asked() -> None:
    assert (shard_size(512, 0), shard_size(512, 8), shard_size(16, 8)) == (512, 128, 16)
    smaller = ALL.model_copy(update={"sampling": ALL.sampling.model_copy(update={"shard_size": 256})})
    assert settings_of(smaller, "sample")["sampling.shard_size"] == 256
