"""Forms with one preference a row: TRL's, UltraFeedback's, HH's, LLaMA-Factory's, HelpSteer3's and our own."""

from __future__ import annotations

import math
import re

from icr.base.conversation import Conversation, load_conversation
from icr.base.errors import UserError, some
from prompts.messages import read_messages, strip_all
from prompts.preferences.reading import (
    SAME,
    Fields,
    LeftOut,
    PairReader,
    Preference,
    Reading,
    read_number,
    read_text,
)
from prompts.preferences.sides import NAMES, Sides, find_no_preference, read_sides, without_prompt
from prompts.tables import Rows

TURN = re.compile(r"\n\n(Human|Assistant): ?")
"""How HH's transcripts begin a turn."""
TIE = "tie"
COLUMNS = {"id", "lang", "language", "source", "group", "prompt_id", "margin", *NAMES}
"""Of a pair of texts: none of these is its prompt under another name."""


def read_pairs(reading: Reading, rows: Rows, read: PairReader) -> None:
    """Every row of a source by the reader of its form."""
    for where, row, lang in reading.each(rows, "lang", "language"):
        with reading.noting(lang):
            if reading.lenient and (reason := find_no_preference(row)):
                raise LeftOut(reason)
            reading.add_pair(row, where, lang, read(row, where))


def read_plain(row: Fields, where: str) -> Preference:
    """TRL's explicit and implicit prompts, texts or messages; and our own, with `margin`.

    Two texts without a prompt are two responses, of which a reward model sees nothing else: what TRL calls an implicit
    prompt is at the beginning of both.
    """
    texts = [row.get(name) for name in ("chosen", "rejected")]
    if row.get("prompt") not in (None, "") or not all(isinstance(text, str) and text.strip() for text in texts):
        return Preference(read_sides(row, where), _margin(row, where))
    if others := [name for name, value in row.items() if name not in COLUMNS and isinstance(value, str | list)]:
        do = "call the prompt's column `prompt`, or remove these columns: then a reward model sees the responses alone"
        raise UserError(f"a pair without `prompt` that has {some(map(str, others))}", where=where, do=do)
    return Preference(without_prompt(row, where), _margin(row, where))


def _margin(row: Fields, where: str) -> float | None:
    return None if row.get("margin") in (None, "") else read_number(row, "margin", where)


def read_own(row: Fields, where: str) -> Preference:
    """A table of `icr rm data`: its prompts are conversations as tables hold them."""
    if row.get("prompt") == "":
        return Preference(without_prompt(row, where), _margin(row, where))
    prompt, chosen, rejected = (read_text(row, name, where) for name in NAMES)
    return Preference(Sides(load_conversation(prompt), chosen, rejected), _margin(row, where))


def read_scored(row: Fields, where: str) -> Preference:
    """UltraFeedback binarized: the difference of the two scores is the margin."""
    margin = read_number(row, "score_chosen", where) - read_number(row, "score_rejected", where)
    if math.isnan(margin) or margin == 0:
        raise LeftOut(TIE)
    if margin < 0:
        raise LeftOut("the rejected one has the higher score")
    return Preference(read_sides(row, where), margin)


def read_sharegpt(row: Fields, where: str) -> Preference:
    """LLaMA-Factory: `conversations` is the prompt, `chosen` and `rejected` one message each."""
    conversations = row.get("conversations")
    if not isinstance(conversations, list):
        raise UserError("`conversations` is not a list of messages", where=where, do='write [{"from": …, "value": …}]')
    system = row.get("system")
    before = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    sides = {name: [row[name]] if isinstance(row.get(name), dict) else row.get(name) for name in ("chosen", "rejected")}
    return Preference(read_sides({"prompt": [*before, *conversations], **sides}, where))


def read_preferred(row: Fields, where: str) -> Preference:
    """HelpSteer3: `overall_preference` from −3, the first response is much better, to 3."""
    strength = read_number(row, "overall_preference", where)
    if not -3 <= strength <= 3:
        what = f"`overall_preference` is {strength:g}, outside of −3…3"
        raise UserError(what, where=where, do="write a number from -3 to 3")
    if strength == 0:
        raise LeftOut(TIE)
    better, worse = ("response1", "response2") if strength < 0 else ("response2", "response1")
    chosen, rejected = read_text(row, better, where), read_text(row, worse, where)
    if chosen == rejected:
        raise LeftOut(SAME)
    given = {"prompt": row.get("context"), "chosen": chosen, "rejected": rejected}
    return Preference(read_sides(given, where), abs(strength))


def read_transcripts(row: Fields, where: str) -> Preference:
    """HH: two transcripts that share their beginning, which is the prompt."""
    chosen, rejected = (_turns(read_text(row, name, where), name, where) for name in ("chosen", "rejected"))
    if strip_all(chosen[:-1]) != strip_all(rejected[:-1]):
        raise LeftOut("answers to different prompts")
    given = {"chosen": chosen, "rejected": rejected}
    if reason := find_no_preference(given):
        raise LeftOut(reason)
    return Preference(read_sides(given, where))


def _turns(text: str, name: str, where: str) -> Conversation:
    parts = TURN.split(text)
    if parts[0].strip() or len(parts) < 5:
        do = "write \\n\\nHuman: … \\n\\nAssistant: …"
        raise UserError(f"`{name}` is not a transcript", where=where, do=do)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[role], "content": said.strip()} for role, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return read_messages(turns, f"{where}, `{name}`")
