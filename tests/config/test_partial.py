"""With one fault in a config, what else is wrong with it is reported too, and once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import ConfigError
from icr.commands.options import load_checked
from icr.config.reward_model import RewardModelConfig
from icr.config.rl import RLConfig
from icr.config.sft import SftConfig
from icr.config.transfer import TransferConfig
from icr.config.values import Section
from icr.experiments.reward_inputs import check_inputs
from icr.experiments.rl_inputs import check_rl
from icr.experiments.sft import check_sft
from icr.experiments.transfer import check_transfer
from icr.rounds import preflight

NO_CODE, NO_FOLDER = "'english' is not an ISO 639-1 language code", "nowhere not found"
NO_DATA = "nowhere not found"
RUN = "models: {policy: a/b, reference: a/c}\nprompts: {path: nowhere, languages: [en, english]}\n"
EXPERIMENT = "run: out\nbase: a/b\ndata: {preferences: nowhere}\n"


def problems(load: Callable[[Path], object], folder: Path, text: str) -> list[str]:
    (file := folder / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert "(missing)" not in str(caught.value)
    return [problem.what for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("prompts:", "objektive: dpo\nprompts:", "unknown key `objektive`"),
        ("reference: a/c", "refrence: a/c", "unknown key `models.refrence`"),
        (", reference: a/c", "", "`models.reference` is missing"),
        ("models: {policy: a/b, reference: a/c}\n", "", "`models` is missing"),
        ("languages:", "langauges:", "unknown key `prompts.langauges`"),
        ("[en, english]", "'en, english'", "`prompts.languages` takes a list, got 'en, english'"),
        ("path:", "limit: many, path:", "`prompts.limit` takes a whole number ≥ 1 and ≤ 10,000,000, got 'many'"),
    ],
)
def test_the_rest_of_a_run(old: str, new: str, fault: str, tmp_path: Path) -> None:
    assert old in RUN
    found = problems(preflight.load_checked, tmp_path, RUN.replace(old, new, 1))
    assert found == [fault, NO_CODE, f"folder {tmp_path / 'nowhere'} not found"]


def test_what_a_missing_key_leads_to_is_not_reported(tmp_path: Path) -> None:
    text = "models: {reference: a/c}\nprompts: {path: nowhere}\nobjective: dop\n"
    assert problems(preflight.load_checked, tmp_path, text) == [
        "`prompts.languages` is missing", "the English-aligned policy is missing", "unknown objective dop",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "check", "text", "found"),
    [
        (RewardModelConfig, check_inputs, "run: out\nbsae: a/b\ndata: {path: nowhere, languages: [english]}\n",
         ["unknown key `bsae`", NO_CODE, NO_DATA]),
        (RewardModelConfig, check_inputs, "run: out\nbase: a/b\ndata: {languages: [english]}\nloss: pairwis\n",
         ["`data.path` is missing", "`loss` takes auto or pairwise or pointwise, got 'pairwis'", NO_CODE]),
        (SftConfig, check_sft, "run: out\ndata: {path: nowhere, languages: [english]}\n",
         ["`base` is missing", NO_DATA, NO_CODE]),
        (RLConfig, check_rl, "run: out\nprompts: {path: nowhere, languages: english}\nreward: {beta: 1}\n",
         ["`policy` is missing", "`reward.model` is missing", "`prompts.languages` takes a list, got 'english'",
          NO_CODE, NO_FOLDER]),
        (TransferConfig, check_transfer, EXPERIMENT + "languages: {sources: [english], target: [de]}\n",
         ["unknown key `languages.target`", NO_DATA, NO_CODE]),
        (TransferConfig, check_transfer, EXPERIMENT + "languages: {sources: [english]}\njudges: [{knd: x}]\n",
         ["`languages.targets` is missing", "unknown key `judges.0.knd`", NO_DATA, NO_CODE]),
    ],
)  # fmt: skip
def test_the_rest_of_other_configs(
    kind: type[Section], check: Callable[[Any], object], text: str, found: list[str], tmp_path: Path
) -> None:
    shown = problems(lambda file: load_checked(kind, str(file), None, None, check), tmp_path, text)
    assert len(shown) == len(found) and all(a.endswith(b) for a, b in zip(shown, found, strict=True)), shown


def test_a_word_is_taken_for_the_nearest(tmp_path: Path) -> None:
    (file := tmp_path / "x.yaml").write_text(RUN + "reward: {kind: cross-lingul}\njudge: {benchmarks: [mt-bench]}\n")
    with pytest.raises(ConfigError) as caught:
        preflight.load_checked(file)
    assert [problem.do for problem in caught.value.problems[:2]] == [
        "did you mean cross-lingual?", "did you mean mtbench?",
    ]  # fmt: skip
