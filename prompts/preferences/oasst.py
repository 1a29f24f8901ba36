"""OASST1: message trees, flat or nested. All pairs of ranked assistant siblings; the smaller rank wins.

A deleted message is left out, except for one that people had ranked before: with those the published counts of pairs
(Table 4 of arXiv 2404.12318) come out, and without them they do not. A note says how many there are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from icr.base.conversation import Conversation, Role, dump_conversation
from icr.base.errors import UserError
from prompts.preferences.reading import NO_LANGUAGE, Fields, LeftOut, Reading, read_number, read_text
from prompts.tables import Rows

READY = "ready_for_export"
ROLES: dict[object, Role] = {"prompter": "user", "assistant": "assistant"}
BELOW = "below a message that is left out"
DO_PARENT = "add the message, or remove those that answer it"


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is used."""

    id: str
    parent: str | None
    role: Role
    text: str
    lang: str
    rank: float | None
    where: str


def read_messages(reading: Reading, rows: Rows) -> None:
    """Flat messages, each with its `parent_id`."""
    _make_pairs(reading, ((where, value if isinstance(value, dict) else {}) for where, value in rows))


def read_trees(reading: Reading, rows: Rows) -> None:
    """Nested trees: `prompt` is a message with `replies`."""
    _make_pairs(reading, _flatten(reading, rows))


def _flatten(reading: Reading, rows: Rows) -> Iterator[tuple[str, Fields]]:
    for where, value in rows:
        tree = value if isinstance(value, dict) else {}
        todo: list[tuple[object, object]] = [(tree.get("prompt"), None)]
        while todo:
            node, parent = todo.pop()
            if not isinstance(node, dict):
                do = "write a message with its replies"
                reading.problems.append(UserError("a message of the tree is not an object", where=where, do=do))
                continue
            replies = node.get("replies")
            todo += [(reply, node.get("message_id")) for reply in (replies if isinstance(replies, list) else [])]
            yield where, {"tree_state": tree.get("tree_state"), **node, "parent_id": parent}


def _make_pairs(reading: Reading, rows: Iterator[tuple[str, Fields]]) -> None:
    used: dict[str, Message] = {}
    out: set[str] = set()
    places: dict[str, str] = {}
    for where, row in rows:
        try:
            id = read_text(row, "message_id", where)
            if id in places:
                do = "give every message its own id"
                raise UserError(f"message_id {id} appears twice", where=f"{where} and {places[id]}", do=do)
            places[id] = where
            lang = _language(reading, row)
            used[id] = _read(reading, row, id, lang, where)
        except LeftOut as reason:
            reading.leave_out(lang, str(reason))
            out.add(id)
        except UserError as error:
            reading.problems.append(error)
    prompts = _Prompts(used, out, set(places), reading)
    siblings: defaultdict[str, list[Message]] = defaultdict(list)
    for message in used.values():
        if message.role == "assistant" and prompts.of(message) is not None:
            if message.rank is None:
                reading.leave_out(message.lang, "no rank")
            else:
                siblings[message.parent or ""].append(message)
    if reading.kept_deleted:
        what = f"{reading.kept_deleted} messages were deleted after people had ranked them, and are used"
        reading.notes.append(f"{reading.name}: {what}")
    for answers in siblings.values():
        if len(answers) == 1:
            reading.leave_out(answers[0].lang, "no sibling")
        for one, other in combinations(answers, 2):
            _add(reading, prompts, one, other)


def _add(reading: Reading, prompts: _Prompts, one: Message, other: Message) -> None:
    assert one.rank is not None and other.rank is not None
    if one.rank == other.rank:
        reading.leave_out(one.lang, "pairs of equal rank")
        return
    chosen, rejected = (one, other) if one.rank < other.rank else (other, one)
    found = prompts.of(chosen)
    assert found is not None
    group, prompt = found
    reading.pairs.append(
        {
            "id": f"{chosen.id}>{rejected.id}",
            "lang": chosen.lang,
            "prompt": prompt,
            "chosen": chosen.text,
            "rejected": rejected.text,
            "source": reading.name,
            "group": group,
            "margin": None,
        }
    )


def _language(reading: Reading, row: Fields) -> str:
    """The message's language, which it is counted under; `?` where it is unknown."""
    lang = reading.language(row, "lang") or "?"
    reading.rows[lang] += 1
    return lang


def _read(reading: Reading, row: Fields, id: str, lang: str, where: str) -> Message:
    """A message. Raises LeftOut, or UserError where it is wrong."""
    if lang == "?":
        raise LeftOut(NO_LANGUAGE)
    if row.get("tree_state", READY) != READY:
        raise LeftOut(f"tree not {READY}")
    rank = None if row.get("rank") in (None, "") else read_number(row, "rank", where)
    if rank is not None and math.isnan(rank):  # as pandas writes a missing number
        rank = None
    if _is(row.get("deleted"), True) and rank is None:
        raise LeftOut("deleted")
    if _is(row.get("review_result"), False):
        raise LeftOut("failed review")
    role = ROLES.get(row.get("role"))
    if role is None:
        what = f"message {id} has the role {row.get('role')!r}"
        raise UserError(what, where=where, do="write prompter or assistant")
    parent = row.get("parent_id") or None
    if _is(row.get("deleted"), True):
        reading.kept_deleted += 1
    text = read_text(row, "text", where)
    return Message(id, None if parent is None else str(parent), role, text, lang, rank, where)


def _is(value: object, truth: bool) -> bool:
    """A truth value, also as csv writes it."""
    return value is truth or (isinstance(value, str) and value.strip().lower() == str(truth).lower())


class _Prompts:
    """The conversation that each message answers, and the message that it begins with."""

    def __init__(self, used: dict[str, Message], out: set[str], known: set[str], reading: Reading) -> None:
        self._used, self._out, self._known, self._reading = used, out, known, reading
        self._talks: dict[str, tuple[str, Conversation] | None] = {}
        self._texts: dict[str, str] = {}

    def of(self, answer: Message) -> tuple[str, str] | None:
        """(first message's id, the conversation as tables hold it); None where there is none, which is counted or a
        problem."""
        where = answer.where
        if answer.parent is None:
            what = f"message {answer.id} of the assistant does not answer a message"
            self._reading.problems.append(UserError(what, where=where, do="give it a parent_id"))
            return None
        talk = self._talk(answer.parent, answer)
        if talk is None:
            return None
        if answer.parent not in self._texts:
            self._texts[answer.parent] = dump_conversation(talk[1])
        return talk[0], self._texts[answer.parent]

    def _talk(self, id: str, answer: Message) -> tuple[str, Conversation] | None:
        """From the root to this message."""
        path: list[str] = []
        at: str | None = id
        seen: set[str] = set()
        while at is not None and at not in self._talks:
            if at in seen:
                self._wrong(path, answer, "is its own ancestor: the parent_ids make a circle", "fix the parent_id")
                return None
            seen.add(at)
            if at not in self._used:
                if at in self._out:
                    self._reading.leave_out(answer.lang, BELOW)
                    return None
                if at in self._known:
                    return None  # it has a problem of its own
                self._wrong(path, answer, f"answers {at}, which is not in the source", DO_PARENT)
                return None
            path.append(at)
            at = self._used[at].parent
        talk: tuple[str, Conversation] | None = (path[-1], []) if at is None else self._talks[at]
        if talk is None:
            return None
        root, messages = talk
        for step in reversed(path):
            message = self._used[step]
            messages = [*messages, {"role": message.role, "content": message.text}]
            self._talks[step] = (root, messages)
        if messages[-1]["role"] != "user":
            self._wrong(
                [], answer, "answers a message of the assistant, not of the user", "fix the role or the parent_id"
            )
            return None
        return root, messages

    def _wrong(self, path: list[str], answer: Message, what: str, do: str) -> None:
        name = path[-1] if path else answer.id
        at = self._used.get(name, answer)
        self._talks.update(dict.fromkeys(path))
        self._reading.problems.append(UserError(f"message {name} {what}", where=at.where, do=do))
