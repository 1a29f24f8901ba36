"""R_n: an explicit reward model, any sequence classifier with one logit, with its own chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.conversation import Conversation, dump_conversation, show_conversation
from icr.base.errors import UserError
from icr.base.progress import Reporter, Silent
from icr.engines.attention import choose_attention
from icr.engines.folders import locate
from icr.engines.memory import loading, work_in_batches
from icr.engines.precision import Precision
from icr.engines.templates import Template, encode_conversation, template_ends
from icr.engines.tokens import guard_of, template_source

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from icr.engines.prefixes import Prompt


SCALE = "classifier logit"
KEY = "reward.model"
_SILENT = Silent()
PLAIN_TEMPLATE = Template()
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer")
"""Architectures whose first position is the one after the pad token's id: their table has that many rows more."""

PIECE = 16
"""Tokens of the row on which it is tried whether a beginning can be shared."""

Ids = list[tuple[int, int]]
"""(token id, segment) of each token; the segment tells prompt from response where there is no chat template."""


def check_classifier(name: str, key: str = KEY) -> str:
    """The folder or hub id of a reward model, checked as far as that goes without loading it.

    Args:
        key: the config key or option that names it, for messages.

    Raises:
        UserError: folder not found, it is a .gguf file, or its config does not have exactly one label.
    """
    found = locate(name, key)
    if found.endswith(".gguf"):
        raise UserError("a .gguf file cannot be a classifier", where=f"{key}: {name}", do="name a folder or a hub id")
    config = Path(found) / "config.json"
    if config.is_file():
        labels = json.loads(config.read_text(encoding="utf-8")).get("id2label") or {0: "", 1: ""}
        _check_labels(len(labels), found, key)
    return found


def read_conversation(tokenizer: PreTrainedTokenizerBase, prompt: Conversation, response: str) -> Ids:
    """Prompt and response as a classifier reads them: in its chat template, else as a pair of texts.

    In training, evaluation and rewards alike. The template ends the response's turn.
    """
    if tokenizer.chat_template:
        answered: Conversation = [*prompt, {"role": "assistant", "content": response}]
        return [(id, 0) for id in encode_conversation(tokenizer, answered, opened=False)]
    return guard_of(tokenizer).encode_pair(show_conversation(prompt), response)


def longest_input(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that a classifier reads."""
    positions = int(getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length)
    if config.model_type in OFFSET_POSITIONS:
        positions -= (config.pad_token_id or 0) + 1
    return min(positions, int(tokenizer.model_max_length))


def choose_pad(tokenizer: PreTrainedTokenizerBase) -> tuple[int, str]:
    """(id, token) that fills up the batches of a new classifier: one that no sequence holds.

    A decoder's logit is read at the last token that is not the pad token, whatever the mask says. With the end of turn
    as pad token it would be read one token too early.

    Raises:
        UserError: the tokenizer has no such token.
    """
    source = template_source(tokenizer)
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, *template_ends(tokenizer)}
    parts = (tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token)
    free = {
        token: id
        for token, id in guard_of(tokenizer).ids.items()
        if id not in used and token not in source and token not in parts
    }
    pad = tokenizer.pad_token
    if isinstance(pad, str) and pad in free:
        return free[pad], pad
    if free:
        best = min(free, key=lambda token: ("pad" not in token.lower(), "reserved" not in token.lower(), free[token]))
        return free[best], best
    raise UserError(
        "the tokenizer has no token that is only for padding: all its special tokens occur in conversations",
        where=tokenizer.name_or_path,
        do="add a pad token to the tokenizer, and a row for it to the model's embeddings",
    )


class Classifier:
    """A loaded classifier. Its reward of a response is its logit after the prompt as asked and the response."""

    def __init__(self, name: str, precision: Precision, batch_tokens: int, template: Template = PLAIN_TEMPLATE) -> None:
        """Load weights (safetensors only, no remote code) and tokenizer.

        Raises:
            UserError: they cannot be loaded, weights of the classification head are missing, or it does not have one
                logit.
            DoesNotFit: the device's memory is too small for them.
        """
        import torch

        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with loading(name, dtype):
            self.tokenizer, self.model = _load(name, dtype, "cuda" if torch.cuda.is_available() else "cpu")
        template.apply(self.tokenizer)
        self.model.eval()  # type: ignore[no-untyped-call]
        self._batch_tokens = batch_tokens
        self._config = self.model.config.get_text_config()
        self._pad: int | None = self._config.pad_token_id
        self._can_share: bool | None = None
        self.longest = longest_input(self._config, self.tokenizer)

    def token_ids(self, prompt: Conversation, response: str) -> Ids:
        """As `read_conversation`."""
        return read_conversation(self.tokenizer, prompt, response)

    def logits(self, pairs: Sequence[tuple[Conversation, str]], reporter: Reporter = _SILENT) -> list[float | None]:
        """The logit of each (prompt, response); None where the two are longer than the classifier can read.

        A logit does not depend on what else is in the batch, but for rounding. What the rows of one prompt begin with
        is computed once, where that pays and the model can go on from copied keys and values. Where the device's memory
        runs out, batches are halved, with a note.

        Raises:
            DoesNotFit: one text alone is too much.
        """
        rows = [self.token_ids(prompt, response) for prompt, response in pairs]
        prompts = [dump_conversation(prompt) for prompt, _ in pairs]
        values: list[float | None] = [None] * len(rows)
        fitting = [i for i, ids in enumerate(rows) if len(ids) <= self.longest]
        done = tokens = 0

        def run(left: list[int], budget: int) -> Iterator[list[int]]:
            nonlocal done, tokens
            for batch, found in self._forwards(left, rows, prompts, budget):
                for i, value in zip(batch, found, strict=True):
                    values[i] = value
                done, tokens = done + len(batch), tokens + sum(len(rows[i]) for i in batch)
                reporter.progress(done, len(rows), tokens)
                yield batch

        work_in_batches(fitting, self._batch_tokens, run, lambda i: len(rows[i]), self.model, reporter)
        reporter.progress(len(rows), len(rows), tokens)
        return values

    def _forwards(
        self, left: list[int], rows: list[Ids], prompts: list[str], budget: int
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Every row in one forward pass or another: rows of shared beginnings behind them, the others whole."""
        from icr.engines.prefixes import full_speed, make_batches

        shared = self._find_shared(left, rows, prompts)
        yield from self._shared_forwards(shared, rows, budget)
        behind = {i for members in shared.values() for i in members}
        lengths = {i: len(rows[i]) for i in left if i not in behind}
        for batch in make_batches(lengths, budget, full_speed(self.model)):
            yield batch, self._forward([rows[i] for i in batch])

    def _find_shared(self, left: list[int], rows: list[Ids], prompts: list[str]) -> dict[Prompt, list[int]]:
        """What several rows of one prompt begin with → these rows, where computing it once pays."""
        from icr.engines.prefixes import common_beginning, sharing_pays

        by_prompt: dict[str, list[int]] = {}
        for i in left:
            by_prompt.setdefault(prompts[i], []).append(i)
        found: dict[Prompt, list[int]] = {}
        for members in by_prompt.values():
            beginning = common_beginning([[token for token, _ in rows[i]] for i in members])
            tokens = sum(len(rows[i]) for i in members)
            if len(beginning) < 2 or len(members) < 2 or not sharing_pays(beginning, len(members), tokens):
                continue
            # a row that ends in pad tokens is read before them: it may be read within its beginning
            if min(self._read_at(rows[i]) for i in members) >= len(beginning) - 1 and self._shares(rows[members[0]]):
                found.setdefault(beginning, []).extend(members)
        return found

    def _shared_forwards(
        self, rows_of: dict[Prompt, list[int]], rows: list[Ids], budget: int
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Each beginning without its last token once, into a cache; then that token and what the rows go on with."""
        import torch

        from icr.engines.prefixes import continue_rows, full_speed, make_batches, prefill

        for group in make_batches({beginning: len(beginning) - 1 for beginning in rows_of}, budget):
            with torch.inference_mode():
                cache, mask = prefill(self.model, group, budget)
            line = {i: n for n, beginning in enumerate(group) for i in rows_of[beginning]}
            starts = {i: len(group[n]) - 1 for i, n in line.items()}
            lengths = {i: len(rows[i]) - starts[i] for i in line}
            for batch in make_batches(lengths, budget, full_speed(self.model), beside=mask.shape[1]):
                rest = [[token for token, _ in rows[i][starts[i] :]] for i in batch]
                at = [self._read_at(rows[i]) - starts[i] for i in batch]
                with torch.inference_mode():
                    hidden = continue_rows(self.model, cache, mask, [line[i] for i in batch], rest)
                    logits = self.model.get_submodule("score")(hidden[range(len(batch)), at])
                yield batch, logits.float().squeeze(-1).tolist()

    def _read_at(self, row: Ids) -> int:
        """The place of the token at which transformers reads a decoder's logit: the last one that is not the pad
        token; the first one where all are."""
        return next((n for n in range(len(row) - 1, 0, -1) if row[n][0] != self._pad), 0)

    def _shares(self, row: Ids) -> bool:
        """Whether the model goes on from copied keys and values: by its kind, then by trying, once."""
        from icr.engines.precision import computed_in
        from icr.engines.prefixes import may_share

        if self._can_share is None:
            piece = [(token, 0) for token, _ in row if token != self._pad][:PIECE]
            self._can_share = len(piece) > 3 and hasattr(self.model, "score") and may_share(self.model)
            if self._can_share:
                import torch

                trial = [piece, piece[:-1]]
                beginning = tuple(token for token, _ in piece[: len(piece) // 2])
                both = dict(zip([0, 1], self._forward(trial), strict=True))
                gaps = [
                    abs(value - both[i]) / max(1.0, abs(both[i]))
                    for batch, found in self._shared_forwards({beginning: [0, 1]}, trial, len(piece) * 8)
                    for i, value in zip(batch, found, strict=True)
                ]
                self._can_share = max(gaps) <= max(1e-3, 64 * torch.finfo(computed_in(self.model)).eps)
        return self._can_share

    def _forward(self, rows: list[Ids]) -> list[float]:
        import torch

        pad = (self._padding(rows), 0)
        width = max(map(len, rows))
        padded = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
        inputs = {"input_ids": padded[..., 0], "attention_mask": mask}
        if "token_type_ids" in self.tokenizer.model_input_names:
            inputs["token_type_ids"] = padded[..., 1]
        with torch.inference_mode():
            logits = self.model(**inputs).logits
        values: list[float] = logits.float().squeeze(-1).tolist()
        return values

    def _padding(self, rows: list[Ids]) -> int:
        """The pad token. A decoder reads its logit at the last token that is not one, so where the model names no pad
        token, it has to be one that does not occur in the batch."""
        if self._pad is not None:
            return self._pad
        used = {token for row in rows for token, _ in row}
        unused = next(token for token in range(len(used) + 1) if token not in used)
        self._config.pad_token_id = unused
        return unused


def _load(name: str, dtype: torch.dtype, device: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            attn_implementation=choose_attention(name),
        )
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        do = "name a sequence classifier with safetensors weights; an offline machine needs a local folder"
        raise UserError(f"the classifier cannot be loaded: {first}", where=f"{KEY}: {name}", do=do) from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"the model has no weights for {', '.join(missing[:3])}: its rewards would be random",
            where=f"{KEY}: {name}",
            do="name a model that was trained as a sequence classifier",
        )
    _check_labels(model.config.num_labels, name)
    return tokenizer, model


def _check_labels(count: int, name: str, key: str = KEY) -> None:
    if count != 1:
        raise UserError(
            f"the classifier has {count} logits, but a reward is one number",
            where=f"{key}: {name}",
            do="name a reward model: a sequence classifier with a single label",
        )
