"""The options of commands that translate: who translates, and how an endpoint is asked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.problems import Collector

if TYPE_CHECKING:
    from icr.config.schema import Endpoint as Settings
    from icr.endpoint.prices import Estimate

endpoint = partial(typer.Option, rich_help_panel="Endpoint")
TranslatorOption = Annotated[
    str,
    typer.Option("--translator", metavar="MODEL", help="openai:MODEL (an endpoint) or local:MODEL (this machine)."),
]
BaseUrlOption = Annotated[
    str | None,
    endpoint("--base-url", metavar="URL", help="Address of the endpoint. The key comes from OPENAI_API_KEY."),
]
BudgetOption = Annotated[
    float | None, endpoint("--budget", min=0.01, metavar="USD", help="Stop after spending this many US dollars.")
]
PricesOption = Annotated[
    str | None,
    endpoint("--prices", metavar="FILE", help="YAML file of MODEL: {input, output}, in US dollars per million tokens."),
]
ConcurrencyOption = Annotated[int, endpoint("--concurrency", min=1, help="Number of requests at a time.")]
RequestsOption = Annotated[float | None, endpoint("--requests-per-minute", help="The endpoint's limit of requests.")]
TokensOption = Annotated[
    float | None,
    endpoint("--tokens-per-minute", help="The endpoint's limit of prompt and completion tokens together."),
]
AttemptsOption = Annotated[int, endpoint("--attempts", help="How often a request is tried before it counts as failed.")]
TimeoutOption = Annotated[
    float, endpoint("--timeout", metavar="SECONDS", help="Seconds to wait for the answer to a request.")
]
EffortOption = Annotated[
    str | None,
    endpoint(
        "--reasoning-effort",
        metavar="EFFORT",
        help="How long a reasoning model thinks: none, minimal, low, medium, high.",
    ),
]
ExtraBodyOption = Annotated[
    str | None, endpoint("--extra-body", metavar="YAML", help="More parameters of every request, e.g. '{top_k: 1}'.")
]
SystemOption = Annotated[
    str | None, endpoint("--system", metavar="TEXT", help="A system message before every question.")
]
BackendOption = Annotated[
    str,
    typer.Option("--backend", metavar="BACKEND", help="Sampling backend of a local model: auto, vllm or transformers."),
]


def read_translator(
    translator: str, backend: str, given: dict[str, object], extra_body: str | None
) -> dict[str, object]:
    """The fields of a job that say who translates: kind, model, settings and backend.

    Raises:
        ConfigError: every option that is wrong.
    """
    found = Collector()
    kind, _, model = translator.partition(":")
    if kind not in ("openai", "local") or not model:
        do = "write openai:MODEL or local:MODEL"
        found.add(f"{translator!r} is not a translator", where="--translator", do=do)
    if backend not in ("auto", "vllm", "transformers"):
        do = "write auto, vllm or transformers"
        found.add(f"unknown backend {backend}", where="--backend", do=do)
    settings = found.attempt(None, _read_endpoint, given, extra_body)
    found.raise_any()
    return {"kind": kind, "model": model, "settings": settings, "backend": backend}


def _read_endpoint(given: dict[str, object], extra_body: str | None) -> Settings:
    """Raises UserError for a value that an option does not take."""
    from icr.base.yaml_text import parse_yaml
    from icr.config.load import make_section
    from icr.config.schema import Endpoint

    if extra_body is not None:
        given["extra_body"] = parse_yaml(extra_body, "--extra-body", numbered=False).data
    return make_section(Endpoint, given)


def say_expected(found: Estimate) -> str:
    """What a dry run prints."""
    money = "" if found.usd is None else f", at most ${found.usd:.2f}"
    return (
        f"{found.calls} translations to request, {found.cached} already done: about {found.prompt_tokens} prompt "
        f"tokens and at most {found.completion_tokens} completion tokens{money}"
    )


def split_targets(to: str) -> list[str]:
    return to.replace(",", " ").split()
