"""What a worker keeps in memory from one task to the next: one engine, a few scorers, tokenizers.

Policies of one run differ in their weights alone. An engine takes the next round's weights in a fraction of a second
where a new one starts in many; a scorer that is still in memory is not loaded again.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from icr.engines.base import Engine, Stops
from icr.engines.open import EngineSettings, open_engine
from icr.engines.precision import Precision
from icr.engines.templates import Template, find_thinking
from icr.work.probe import Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from icr.engines.body import Body
    from icr.engines.classifier import Classifier

NAMES_ONLY = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Entries of a config.json that may differ between two models of one architecture."""

T = TypeVar("T")
Stamp = tuple[str, int]
"""A model and when its weights were written: a folder may get other weights under the same name."""


class Resident:
    """The state of a worker of the lanes `engine` and `scorer`."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._serves: tuple[EngineSettings, str] | None = None
        self._weights: Stamp | None = None
        self._built = 0
        self._scorers: OrderedDict[tuple[Stamp, Precision], PreTrainedModel] = OrderedDict()
        self._classifiers: dict[tuple[Stamp, Precision], Classifier] = {}
        self._bodies: dict[Stamp, Body] = {}
        self._kept: dict[str, object] = {}
        self._lock = threading.RLock()  # an engine serves several shards at a time, each from its own thread

    def engine(self, model: str, settings: EngineSettings, probe: Probe | None = None) -> Engine:
        """An engine with the weights of `model`: the one that is there, if it can take them, else a new one.

        Args:
            probe: what new weights are checked by; without it they are taken on trust.
        """
        with self._lock:
            serves = (settings, describe_architecture(model))
            if self._engine is None or self._serves != serves:
                return self._build(model, serves)
            if self._weights != stamp(model):
                self._engine.reload(model)
                self._weights = stamp(model)
                print(f"engine {self._built}: weights of {model}", flush=True)
                if probe and not probe.agrees(logp := self._engine.score(probe.token_ids), settings.precision):
                    print(f"its log-probability of a text is {logp:.3f}, not {probe.logp:.3f}", flush=True)
                    return self._build(model, serves)
            return self._engine

    def _build(self, model: str, serves: tuple[EngineSettings, str]) -> Engine:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self._engine = open_engine(model, serves[0])
        self._serves, self._weights = serves, stamp(model)
        self._built += 1
        print(f"engine {self._built} built: {self._engine.name}, {serves[0].precision}, {model}", flush=True)
        return self._engine

    def scorer(self, model: str, precision: Precision, *, surely: bool = False) -> PreTrainedModel:
        """A causal language model in eval mode; older ones stay as long as there is memory for all.

        Args:
            surely: refuse a model for which there is hardly room. A processor whose memory is full does not say so.

        Raises:
            DoesNotFit: there is no room for it.
        """
        from icr.engines.memory import does_not_fit, has_room
        from icr.engines.models import free, load_scorer

        key = (stamp(model), precision)
        if key not in self._scorers:
            for old in [k for k in self._scorers if k[0][0] == model and k[0] != key[0]]:
                free(self._scorers.pop(old))
            while self._scorers and not has_room(model, precision):
                free(self._scorers.popitem(last=False)[1])
            if surely and not has_room(model, precision):
                raise does_not_fit(model, precision)
            self._scorers[key] = load_scorer(model, precision)
        self._scorers.move_to_end(key)
        return self._scorers[key]

    def classifier(
        self, model: str, precision: Precision, batch_tokens: int, template: Template, *, surely: bool = False
    ) -> Classifier:
        """A sequence classifier, alone in memory. `surely` and errors as for `scorer`."""
        from icr.engines.classifier import Classifier
        from icr.engines.memory import does_not_fit, has_room

        key = (stamp(model), precision)
        if key not in self._classifiers:
            self.rest()
            if surely and not has_room(model, precision):
                raise does_not_fit(model, precision)
            self._classifiers[key] = Classifier(model, precision, batch_tokens, template)
        return self._classifiers[key]

    def body(self, model: str, batch_tokens: int) -> Body:
        """A model without its head, alone in memory."""
        from icr.engines.body import Body

        key = stamp(model)
        if key not in self._bodies:
            self.rest()
            self._bodies[key] = Body(model, batch_tokens)
        return self._bodies[key]

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            return cast(T, self._kept[name])

    def tokenizer(self, model: str, template: Template) -> PreTrainedTokenizerBase:
        """A tokenizer that writes conversations in a chat template.

        Raises:
            UserError: as `load_tokenizer`; its template makes the model write its reasoning.
        """
        return self.keep(f"tokenizer {stamp(model)} {template.model_dump_json()}", lambda: _open(model, template))

    def stops(self, model: str, template: Template, asked: tuple[str, ...]) -> Stops:
        """What ends the model's answers, see `icr.engines.stops.find_stops`."""
        from icr.engines.stops import find_stops

        name = f"stops {stamp(model)} {template.model_dump_json()} {asked}"
        return self.keep(name, lambda: find_stops(self.tokenizer(model, template), model, asked))

    def rest(self) -> None:
        """Give device memory back: the engine sleeps, loaded models go."""
        from icr.engines.models import free

        if self._engine is not None:
            self._engine.rest()
        while self._scorers:
            free(self._scorers.popitem()[1])
        while self._classifiers:
            free(self._classifiers.popitem()[1].model)
        while self._bodies:
            free(self._bodies.popitem()[1].model)


def _open(model: str, template: Template) -> PreTrainedTokenizerBase:
    from icr.engines.models import load_tokenizer

    tokenizer = load_tokenizer(model, template)
    if problem := find_thinking(tokenizer):
        raise problem
    return tokenizer


def stamp(model: str) -> Stamp:
    """Which weights a name stands for now."""
    path = Path(model)
    files = path.glob("*.safetensors") if path.is_dir() else []
    return model, max((file.stat().st_mtime_ns for file in files), default=0)


def describe_architecture(model: str) -> str:
    """What two models must share for one engine to serve both; for a hub id, its name."""
    file = Path(model) / "config.json"
    if not file.is_file():
        return model
    config = json.loads(file.read_text(encoding="utf-8"))
    return json.dumps({key: value for key, value in config.items() if key not in NAMES_ONLY}, sort_keys=True)
