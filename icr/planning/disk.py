"""What a run writes to the disk: what stays, and the most that is there at a time."""

from __future__ import annotations

from dataclasses import dataclass

from icr.planning.lengths import Lengths
from icr.planning.setup import Setup
from icr.planning.work import answer_tokens, count_pairs, count_responses, response_tokens
from loops.disk import KEPT, estimate_disk

PER_TOKEN = 7.0
"""Bytes of a response's token in responses/: its id and its text, compressed."""
PER_RESPONSE = 60.0
"""Bytes of a response in responses/ and rewards/ beside its tokens: key, reward, α's penalty."""
PER_PAIR_TOKEN = 14.0
"""Bytes of a token of a pair: it is in pairs.parquet and in the training's data."""
PER_FILE = 4 * 2**10
"""Bytes of a table's columns and of a small JSON file."""
KEPT_FILES = (".json", ".jinja", ".txt", ".model")
PER_RUN = 150 * 2**10
"""Bytes of logs and of the report."""
GUESSED_TOKENIZER = 4 * 2**20
"""Bytes of a model's tokenizer and config, where they are not here."""


@dataclass(frozen=True)
class DiskPlan:
    """Bytes."""

    model: int
    """Of a round, its tokenizer included."""
    models: int
    """Of all rounds, and of the alignment."""
    tables: int
    """Responses, rewards, pairs, answers, of all rounds."""
    checkpoints: int
    """While a training runs: KEPT of them, as far as it is long enough to write so many."""

    @property
    def kept(self) -> int:
        """When the run is done."""
        return self.models + self.tables

    @property
    def peak(self) -> int:
        return self.kept + self.checkpoints


def plan_disk(setup: Setup, lengths: Lengths, longest_training: float) -> DiskPlan:
    """Models · rounds + tables + checkpoints · min(KEPT, how many the longest training writes).

    Args:
        longest_training: seconds at worst.
    """
    config, train = setup.config, setup.train
    needs = estimate_disk(train, setup.policy.size)
    trainings = config.rounds + (1 if config.models.policy is None else 0)
    written = KEPT if train.save_steps else int(longest_training / (60 * train.save_minutes))
    best = 2 * needs.export if train.validation else 0
    adapter = 0 if train.lora is None else 4 * setup.policy.size.adapter_parameters(train.lora.rank)
    model = needs.export + adapter + _beside_weights(setup)
    return DiskPlan(model, trainings * model, _tables(setup, lengths), min(KEPT, written) * needs.checkpoint + best)


def _beside_weights(setup: Setup) -> int:
    """Bytes of what is exported with the weights: the base's own files."""
    folder = setup.policy.folder
    files = [f for f in folder.iterdir() if f.is_file() and f.suffix in KEPT_FILES] if folder else []
    return sum(f.stat().st_size for f in files) or GUESSED_TOKENIZER


def _tables(setup: Setup, lengths: Lengths) -> int:
    """Of all rounds: responses, rewards, pairs, training data, answers; logs and the report."""
    prompt = sum(of.prompts * of.tokens for _, of in setup.languages())
    prompt /= max(1, sum(of.prompts for _, of in setup.languages()))
    responses, pairs = count_responses(setup), count_pairs(setup, lengths)
    answer = response_tokens(setup, lengths) / max(1, responses)
    of_round = PER_TOKEN * response_tokens(setup, lengths) + PER_RESPONSE * responses
    of_round += PER_PAIR_TOKEN * pairs * (prompt + 2 * answer)
    languages, judged = len(setup.texts.prompts), sum(stage == "judge" for _, stage in setup.stages)
    of_round += PER_FILE * (2 * languages + 6)
    answers = PER_TOKEN * answer_tokens(setup, lengths) if "xalpaca" in setup.config.judge.benchmarks else 0.0
    answers += PER_FILE * 3 * languages
    return round(PER_RUN + setup.config.rounds * of_round + judged * answers)
