"""The chat templates of a run before it starts: what is wrong with them, and what the models will read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.conversation import Conversation, load_conversation, wrap_text
from icr.base.errors import ConfigError, UserError
from icr.config.schema import Config
from icr.rewards import condition
from icr.rounds.context import Inputs
from prompts.load import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr.engines.templates import Template

TWO_TURNS: Conversation = [*wrap_text("?"), {"role": "assistant", "content": "!"}, *wrap_text("?")]
"""What MT-Bench's second question is asked in."""
LOG_RATIOS = ("cross-lingual", "multilingual", "translate")
"""Kinds of reward that read a condition."""


def check_templates(
    config: Config,
    model: str | None,
    judges: Sequence[str],
    prompts: Sequence[Prompt],
    alignment: Sequence[Mapping[str, str]],
) -> None:
    """Whether the models' chat templates take what they will be given, and whether answers end: rendered, not run.

    A hub id is looked at only where its tokenizer is in the local cache, and a .gguf file not at all: what is wrong
    with their templates is said when the first prompts are encoded.

    Args:
        model: the policy, or what it is made from; a folder, hub id or .gguf file.
        judges: the local ones, likewise.

    Raises:
        ConfigError: every problem.
    """
    from icr.engines.models import find_tokenizer
    from icr.engines.stops import find_stops
    from icr.engines.templates import NO_THINKING, Template, check_template

    talks: list[tuple[str, Conversation]] = [(f"prompt {p.id}, language {p.lang}", p.messages) for p in prompts]
    talks += [(f"alignment pair {n}", load_conversation(pair["prompt"])) for n, pair in enumerate(alignment, 1)]
    if config.judge.active and "mtbench" in config.judge.benchmarks:
        talks.append(("MT-Bench", TWO_TURNS))
    problems: list[UserError] = []
    file = config.models.chat_template
    folder = find_tokenizer(model) if model else None
    if folder and (file is None or Path(file).is_file()):
        tokenizer = _open(folder, Template(file=file, arguments=config.models.template_arguments), problems)
        if tokenizer is not None:
            found = list(check_template(tokenizer, talks or [("a prompt", wrap_text("?"))]))
            problems += [_name_template(problem, file) for problem in found]
            try:
                find_stops(tokenizer, folder, config.sampling.stop)
            except UserError as error:
                problems.append(error)
    for folder in filter(None, map(find_tokenizer, judges)):
        tokenizer = _open(folder, Template(arguments=NO_THINKING), problems)
        problems += check_template(tokenizer, [("judge.model", wrap_text("?"))]) if tokenizer is not None else []
    if problems:
        raise ConfigError(problems)


def _open(folder: str, template: Template, problems: list[UserError]) -> PreTrainedTokenizerBase | None:
    from icr.engines.models import load_tokenizer

    try:
        return load_tokenizer(folder, template)
    except UserError as error:
        problems.append(error)
        return None


def _name_template(problem: UserError, file: str | None) -> UserError:
    where = f"{problem.where}, models.chat_template: {file}" if file else problem.where
    return UserError(problem.what, where=where, do=problem.do)


def show_prompts(config: Config, inputs: Inputs) -> Iterator[str]:
    """What the models will read of one prompt of each language, control tokens between ⟦ and ⟧, and what ends answers.

    Raises:
        UserError: the tokenizer cannot be loaded, or its template refuses the prompts.
    """
    from icr.engines.folders import find_dequantised
    from icr.engines.models import find_tokenizer, load_tokenizer
    from icr.engines.stops import find_stops, trained_end
    from icr.engines.templates import Template, prompt_token_ids
    from icr.engines.tokens import show_tokens

    name = inputs.policy or inputs.reference
    made = find_dequantised(Path(name), config.models.chat_template) if name.endswith(".gguf") else None
    model = str(made) if made else find_tokenizer(name) or name
    template = Template(file=config.models.chat_template, arguments=config.models.template_arguments)
    tokenizer = load_tokenizer(model, template)
    kind = config.reward.kind
    for lang in config.prompts.languages:
        prompt = next(p for p in inputs.prompts if p.lang == lang)
        yield f"── {lang}, prompt {prompt.id}: the policy answers"
        yield show_tokens(tokenizer, prompt_token_ids(tokenizer, prompt.messages))
        if kind in LOG_RATIOS:
            yield f"── {lang}, prompt {prompt.id}: the reward ({kind}), policy and reference read"
            given = condition(kind, lang, prompt.messages, prompt.english)
            yield show_tokens(tokenizer, prompt_token_ids(tokenizer, given))
    stops = find_stops(tokenizer, model, config.sampling.stop)
    ends = [*(show_tokens(tokenizer, [id]) for id in stops.ids), *map(repr, stops.texts)]
    yield f"── sampling stops at {' '.join(ends)}"
    yield f"── answers are trained to end with {show_tokens(tokenizer, trained_end(tokenizer, stops))}"
