"""What best of n gains, in `icr transfer`: tables for the terminal, and rows for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from icr.base.fields import Fields
from icr.config.transfer import TransferConfig
from icr.report.numbers import between, listed, number
from icr.report.transfer_variants import TRAINED

Cells = Mapping[tuple[str, str], Fields]
STOPPED = "*"
HOW = {"dpo": " on the model's pairs", "rl": " on the model's scores"}


def describe_work(config: TransferConfig, counts: Fields) -> str:
    """How much an experiment is, for --dry-run."""
    languages = config.languages
    models = len(languages.sources) + len(config.pools)
    lines = [f"{_count(models, 'reward model')} × {_count(len(languages.targets), 'target')}"]
    if config.translated:
        lines.append(f"{_count(len(config.translated), 'reward model')} on translated rows, each for one target")
    if "fine_tunings" in counts:
        lines.append(f"{_count(counts['fine_tunings'], 'training')} by supervised fine-tuning, a policy each")
    if "translations" in counts:
        usd = counts["translation_usd"]
        money = "" if usd is None else f", at most ${usd:.2f}"
        tokens = number(counts["translation_tokens"], 0)
        lines.append(f"{number(counts['translations'], 0)} translations to request: at most {tokens} tokens{money}")
    if "candidates" in counts:
        if "trainings" in counts:
            lines.append(f"{_count(counts['trainings'], 'training')} by DPO")
        if "rl_trainings" in counts and config.align and config.align.rl:
            tokens = counts["rl_samples"] * config.align.rl.sampling.max_tokens
            drawn = f"at most {number(counts['rl_samples'], 0)} samples of at most {number(tokens, 0)} tokens"
            lines.append(f"{_count(counts['rl_trainings'], 'training')} by RLOO: {drawn}")
        lines.append(f"{number(counts['candidates'], 0)} candidates of at most {number(counts['tokens'], 0)} tokens")
        if counts["questions"]:
            lines.append(f"at most {number(counts['questions'], 0)} questions to judges (icr judge prices one)")
    if "nodes" in counts:
        lines.append(f"{_count(counts['nodes'], 'node')} of a cluster, up to {_count(counts['side_by_side'], 'step')}"
                     " at a time")  # fmt: skip
    return "\n".join(lines)


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def say_order(of: Fields, target: str, better: str) -> str:
    """Which source is first in a target, and which may be as good.

    Args:
        of: of `icr.experiments.transfer_matrix.rank_targets`.
        better: the sentence for a source that is better than all others.
    """
    if not of["order"]:
        return f"{target}: not ranked, because {of['why']}."
    best, others = of["order"][0], of["order"][1:]
    if not others:
        return f"{target}: {best} is the only source; a ranking needs two."
    alike = [source for source in others if not is_behind(of["ahead"][source])]
    chance = "" if of["chances"] is None else f" (best with probability {of['chances'][best]:.2f})"
    if not alike:
        return f"{target}: {better} {best}{chance}; it is better than every other source."
    return f"{target}: {best} is first{chance}, but {listed(alike)} may be as good."


def is_behind(ahead: Fields) -> bool:
    """Whether the best source's lead has a whole interval above 0."""
    interval = ahead.get("difference_interval")
    return interval is not None and interval[0] > 0


def conclude_gains(result: Fields) -> list[str]:
    """A sentence for each judge and target, and for each where the winner by verdicts is not the one by accuracy."""
    lines = []
    for judge, of in result.get("judges", {}).items():
        for target, found in of["targets"].items():
            lines.append(f"{judge}, {say_order(found, target, 'align with')}")
        for method, name in TRAINED.items():
            for target, found in of.get(method, {}).get("targets", {}).items():
                lines.append(f"{judge}, after {name}, {say_order(found, target, 'align with')}")
    for row in result.get("orders", []):
        if row["tau"] is not None:
            tau = f"τ {number(row['tau'], 2)} over {len(row['sources'])} sources"
            lines.append(f"{row['judge']}, {row['target']}: orders by accuracy and by win rate: {tau}.")
    return lines


def gain_tables(result: Fields) -> list[RenderableType]:
    """Score increases by the model that chose, win rates of each judge."""
    if "increase" not in result:
        return []
    sources, increases = result["sources"], result["increase"]
    own = [row for row in increases if row["source"] == row["scored_by"]]
    caption = "score increase: best answers minus first ones, by the model that chose"
    found: list[RenderableType] = [Text(caption), _matrix(own, sources, "increase", digits=3)]
    by_target = [row for row in increases if row["scored_by"] == row["target"] != row["source"]]
    if by_target:
        caption = "score increase by the target's own model"
        found += [Text(caption), _matrix(by_target, sources, "increase", digits=3)]
    if policies := result.get("rl"):
        found += [Text("policies trained by RLOO, on held-out prompts"), rl_table(policies)]
    for judge, of in result["judges"].items():
        ranks = {target: found.get("ranks", {}) for target, found in of["targets"].items()}
        caption = f"win rate by {judge}: best answers against the policy's own, in percent"
        found += [Text(caption), _matrix(of["cells"], sources, "win_rate", ranks)]
        for method, name in TRAINED.items():
            if trained := of.get(method):
                ranks = {target: found.get("ranks", {}) for target, found in trained["targets"].items()}
                caption = f"win rate by {judge}: after {name}{HOW[method]} against the policy, in percent"
                found += [Text(caption), _matrix(trained["cells"], sources, "win_rate", ranks)]
    return found


def _matrix(
    rows: Sequence[Fields], sources: Sequence[str], value: str, ranks: Mapping[str, Mapping[str, int]] | None = None,
    digits: int = 1,
) -> Table:  # fmt: skip
    """Sources × targets, with intervals and ranks."""
    table = Table(box=box.SIMPLE_HEAD)
    targets = list(dict.fromkeys(row["target"] for row in rows))
    table.add_column("trained on", no_wrap=True)
    for target in targets:
        table.add_column(target, justify="right", no_wrap=True)
    by = {(row["source"], row["target"]): row for row in rows}
    for source in sources:
        cells = []
        for target in targets:
            row = by.get((source, target))
            rank = (ranks or {}).get(target, {}).get(source)
            cells.append("–" if row is None else _cell(row, value, rank, digits))
        table.add_row(source, *cells)
    return table


def _cell(row: Fields, value: str, rank: int | None, digits: int) -> str:
    interval = row[f"{value}_interval"]
    shown = between(interval) if digits == 1 or interval is None else " … ".join(number(x, digits) for x in interval)
    return f"{number(row[value], digits)}{'' if rank is None else f' ({rank})'}\n{shown}"


def rl_table(rows: Sequence[Fields]) -> Table:
    """A row a policy: how much the scores have risen, under its reward model and the target's own, and what it took."""
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", collapse_padding=True)
    for name in ("target", "trained\non"):
        table.add_column(name, no_wrap=True)
    for name in ("score\nrise", "by the\ntarget's", "KL", "KL a\ntoken", "length", "right\nlang."):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        rises = [_rise(row[key], row[f"{key}_interval"]) for key in ("rise", "rise_by_target")]
        error = "" if row["kl_se"] is None else f"\n± {number(row['kl_se'], 2)}"
        kl = f"{number(row['kl'], 2)}{STOPPED if row['stopped_by_kl'] else ''}{error}"
        lengths = f"{number(row['length_before'], 0)} →\n{number(row['length'], 0)}"
        right = " →\n".join(number(100 * row[key], 0) for key in ("right_language_before", "right_language"))
        table.add_row(row["target"], row["source"], *rises, kl, number(row["kl_per_token"], 3), lengths, right)
    table.caption = (
        "score rise with 95 % intervals over prompts; KL to the policy before, in nats; length in characters"
    )
    if any(row["stopped_by_kl"] for row in rows):
        table.caption += f"; {STOPPED} stopped at max_kl"
    return table


def _rise(value: float | None, interval: Sequence[float] | None) -> str:
    shown = "" if interval is None else "\n" + " … ".join(number(x, 2) for x in interval)
    return number(value, 2, sign=True) + shown


def curves(result: Fields) -> list[Fields]:
    """Best of k for the page: for each target the ks, their KL bounds, and a row of scores for each source,
    and of expected win rates for each source and judge of all candidates."""
    found = []
    rows = result.get("best_of_k", [])
    for target in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if row["target"] == target]
        sizes = {row["k"]: row["kl_bound"] for row in own}
        scores = {
            source: [row["score"] for row in own if row["source"] == source]
            for source in dict.fromkeys(row["source"] for row in own)
        }
        for row in result.get("expected_wins", []):
            if row["target"] == target and row["k"] in sizes:
                scores.setdefault(f"{row['source']}, expected win rate by {row['judge']}", []).append(row["win_rate"])
        found.append({"target": target, "sizes": sizes, "scores": scores})
    return found
