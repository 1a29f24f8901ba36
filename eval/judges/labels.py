"""Finding a label in what a judge has written, whatever it has put around it. Linear in the length of the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

WRAPPINGS = (
    # what models put around a label: "Answer A", "the better output is (b)", "\boxed{\text{A}}", {"verdict": "A"}
    "the better best answer verdict output response reply model assistant option choice result winner final judgment "
    "preferred my is it s boxed text textbf label summary "
    "antwort die beste bessere ist respuesta la mejor es réponse meilleure est ответ лучший это jibu bora ni คำตอบ "
    "ที่ดีกว่าคือ 答案 回答 是 उत्तर بهتر الإجابة উত্তর risposta migliore è resposta melhor é odpowiedź lepsza yanıt cevap "
    "답변 câu trả lời"
)
MARKED = re.compile(
    r"\[\[([^\[\]\n]{1,40})\]\]|\\boxed\{([^{}\n]{1,40}|\\text\{[^{}\n]{1,40}\})\}|"
    r"<(?:answer|verdict|judgment|final|result|label)>([^<>\n]{1,40})</"
)
"""A verdict that is set apart from the words around it."""
SINGLE = re.compile(r"\[([^\[\]\n]{1,40})\]")
"""FastChat's second try: a grade in one pair of brackets."""
THINKING = re.compile(r"</(?:think|thinking|reasoning)>")
STILL_THINKING = re.compile(r"\s*<(?:think|thinking|reasoning)>")
NUMBER = re.compile(r"\D{0,20}?(-?\d{1,3}(?:[.,]\d{1,4})?)(?:\s*(?:/|out of|von|de)\s*10)?\W{0,5}$")
PARTS = re.compile(r"[^\W\d_]+|\d+")
SHORT = 400
"""Characters; no label with what is around it is longer."""


def strip_thinking(text: str) -> tuple[str, bool]:
    """The text behind a model's thoughts, and whether it had any; "" where the thoughts have no end."""
    *thoughts, last = THINKING.split(text)
    if STILL_THINKING.match(last):
        return "", True
    return last.strip(), bool(thoughts)


@cache
def folding(labels: tuple[str, ...]) -> Callable[[str], str]:
    """How labels are compared: in lower case, unless two of them differ in nothing else, as AlpacaEval's m and M do."""
    return str if len({label.lower() for label in labels}) < len(set(labels)) else str.lower


def find_label(text: str, labels: Sequence[str], *, cut: bool = False) -> str | None:
    """The one label that a short answer gives; None where it gives none, or more than one.

    Args:
        cut: the answer was cut off, so that its last line may be the beginning of a sentence.
    """
    # most answers are one of few texts
    return (_find_known if len(text) <= SHORT else _find_label)(text, tuple(labels), cut)


@lru_cache(maxsize=1024)
def _find_known(text: str, labels: tuple[str, ...], cut: bool) -> str | None:
    return _find_label(text, labels, cut)


def _find_label(text: str, labels: tuple[str, ...], cut: bool) -> str | None:
    lines = [line for line in text.splitlines() if line.strip()]
    if found := _whole(text, labels):
        return found
    if found := find_marked(text, labels):
        return found
    ends = {label for line in (lines[:1] if cut else [*lines[:1], *lines[-1:]]) if (label := _whole(line, labels))}
    if len(ends) == 1 and len(lines) > 1:
        return ends.pop()
    return _preferred(lines[0], labels) if lines else None


def find_marked(text: str, labels: Sequence[str]) -> str | None:
    """The last label in double brackets, in \\boxed{} or in a tag such as <answer>."""
    for mark in reversed(_marks(MARKED, text)):
        if label := _whole(mark, labels):
            return label
    return None


def find_grade(text: str, lowest: float, highest: float) -> float | None:
    """The last grade in the range that is set apart, as FastChat has them: [[7.5]], [[8.0]], [8]."""
    for mark in (*reversed(_marks(MARKED, text)), *reversed(_marks(SINGLE, text))):
        number = NUMBER.match(mark.strip())
        if number and lowest <= (grade := float(number[1].replace(",", "."))) <= highest:
            return grade
    return None


def _marks(pattern: re.Pattern[str], text: str) -> list[str]:
    return [next(group for group in match.groups() if group is not None) for match in pattern.finditer(text)]


def _preferred(line: str, labels: Sequence[str]) -> str | None:
    """ "B is better because …" at the start of an answer."""
    fold = folding(tuple(labels))
    parts = words(line[:SHORT], fold)
    for label in labels:
        own = words(label, fold)
        if parts[: len(own)] == own and parts[len(own) :][:2] == ("is", "better"):
            return label
    return None


def _whole(text: str, labels: Sequence[str]) -> str | None:
    """The label that a text consists of, but for wrappings."""
    if len(text) > SHORT:
        text = re.sub(r"\W+", " ", text)  # 8,000 exclamation marks are as good as one
        if len(text) > SHORT:
            return None
    said = _bare(words(text, folding(tuple(labels))))
    return next((label for label in labels for form in _forms(label, tuple(labels)) if said == form), None)


@cache
def _forms(label: str, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
    """How a label may be said: as it is; without "answer" before it; a letter by its number."""
    own = words(label, folding(labels))
    forms = [_bare(own), own]
    if all(len(other) == 1 and other.isalpha() for other in labels):
        forms.append((str(labels.index(label) + 1),))
    return forms


@cache
def _wrappings() -> frozenset[str]:
    return frozenset(words(WRAPPINGS))


def _bare(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Without the wrappings at both ends."""
    inside = [n for n, part in enumerate(parts) if part.lower() not in _wrappings()]
    return parts[inside[0] : inside[-1] + 1] if inside else ()


def words(text: str, fold: Callable[[str], str] = str.lower) -> tuple[str, ...]:
    """Words and numbers, in lower case or as `fold` has them; full-width letters are letters."""
    return tuple(map(fold, PARTS.findall(unicodedata.normalize("NFKC", text))))
