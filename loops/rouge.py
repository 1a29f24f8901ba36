"""ROUGE-L of an answer against a reference, in any script."""

from __future__ import annotations

import sys
from functools import cache

from absl import logging as absl_logging
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from icr.base.words import split_words

# rouge-score brings absl, whose handler keeps the stderr of this moment and closes it when somebody configures logging
# again, as vLLM does. It leaves the process's own stderr open.
absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


class Words(Tokenizer):  # type: ignore[misc]
    """rouge-score's own tokeniser drops every letter outside a–z."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=Words())


def rouge_l(reference: str, answer: str) -> float:
    """F of the longest common subsequence (Lin 2004, β = 1): 2·P·R / (P + R), with P = LCS / words of the answer and
    R = LCS / words of the reference. Words are those of `icr.base.words`; 0 where one of the texts has none.
    """
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)
