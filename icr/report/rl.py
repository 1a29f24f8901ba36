"""What `icr rl` prints: its measurements, and what has become of the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from icr.base.fields import Fields

if TYPE_CHECKING:
    from rich.table import Table


def rl_table(rows: Sequence[Fields]) -> Table:
    """A row a measurement: mean scores and KL with their errors, characters, share in the right language."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    names = list(rows[0]["scores"])
    for head in ("step", *names, "KL", "a token", "length", "language"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        scores = [_mean(row["scores"][name]["mean"], row["scores"][name]["se"]) for name in names]
        length, right = f"{row['length']:.0f}", f"{100 * row['right_language']:.0f} %"
        kl = _mean(row["kl"], row["kl_se"]), f"{row['kl_per_token']:.3f}"
        table.add_row(str(row["step"]), *scores, *kl, length, right)
    return table


def _mean(value: float | None, se: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if se is None else f"{value:.2f} ± {se:.2f}"


def describe_rl(result: Fields, max_kl: float) -> Iterator[str]:
    """Lines of text."""
    training, prompts = result["training"], result["prompts"]
    for part, name in (("train", "trained on"), ("heldout", "held out")):
        shown = ", ".join(f"{lang} {count}" for lang, count in prompts[part].items())
        yield f"prompts {name}: {shown}"
    for part, counts in training["too_long"].items():
        yield f"too long, left out ({part}): " + ", ".join(f"{lang} {count}" for lang, count in counts.items())
    yield f"{training['steps']} of {training['planned_steps']} steps, {training['samples']} samples"
    if training["stopped_by_kl"]:
        yield f"stopped: the KL was above {max_kl:g} nats a sequence; the model is that of step {training['step']}"
    for name, of in result["rise"].items():
        interval = "" if of["low"] is None else f" (95 % {of['low']:+.2f} to {of['high']:+.2f})"
        yield f"score under {name}, step 0 to {training['step']}: {of['mean']:+.2f}{interval}"
    last = result["last"]
    if last["unscored"]:
        yield f"held-out samples that the reward model could not read: {last['unscored']} of {last['samples']}"
