"""What a plan knows of a model: size and shape, from config.json and the headers of its files. No weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.content import ADAPTER
from icr.base.errors import UserError
from icr.base.files import read_object
from icr.engines.adapters import is_adapter
from icr.engines.folders import find_dequantised
from icr.engines.language_part import find_language_part, has_other_parts
from icr.engines.sizes import BYTES, CheckpointSize, find_folder, measure_checkpoint, measure_tensors, read_model_config
from icr.engines.weights import read_headers

LIKE_LLAMA = {
    135e6: (30, 576, 3, 64, 1536, 49_152),
    1.2e9: (16, 2048, 8, 64, 8192, 128_256),
    3.2e9: (28, 3072, 8, 128, 8192, 128_256),
    8.0e9: (32, 4096, 8, 128, 14_336, 128_256),
    70.6e9: (80, 8192, 8, 128, 28_672, 128_256),
}
"""Parameters → layers, hidden, KV heads, size of a head, intermediate, vocabulary: SmolLM2-135M and Llama-3."""
UNITS = {"m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Shape:
    """What of a config.json decides how much memory and how many operations a token takes."""

    layers: int
    hidden: int
    kv_heads: int
    head: int
    """Numbers of a key."""
    intermediate: int
    vocabulary: int

    @property
    def kv_numbers(self) -> int:
        """Numbers that a token keeps in the cache of keys and values: 2 · layers · KV heads · size of a head."""
        return 2 * self.layers * self.kv_heads * self.head

    def matrices(self) -> tuple[tuple[int, int], ...]:
        """A layer's linear layers as a Llama has them, for each layer."""
        kv, wide = self.kv_heads * self.head, self.intermediate
        one = [(self.hidden, self.hidden)] * 2 + [(self.hidden, kv)] * 2 + [(self.hidden, wide)] * 3
        return tuple(one * self.layers)


@dataclass(frozen=True)
class ModelFacts:
    """One model."""

    size: CheckpointSize
    shape: Shape
    source: str
    """Where the figures are from, for people."""
    folder: Path | None = None
    """Where its tokenizer is."""

    @property
    def parameters(self) -> int:
        return self.size.parameters


def find_facts(model: str, chat_template: str | None = None, parameters: int | None = None) -> ModelFacts | None:
    """The facts of a model, as far as its files are on this machine: nothing is downloaded.

    Args:
        model: as `icr.engines.folders.locate` gives it: a folder, a hub id, or a .gguf file.
        chat_template: `models.chat_template`, which a .gguf file's folder is known by.
        parameters: how many it has, where its files are not here.

    Returns:
        None where neither files nor `parameters` say it.
    """
    if model.endswith(".gguf"):
        made = find_dequantised(Path(model), chat_template)
        return _of_folder(made) if made else _of_gguf(Path(model))
    folder = find_folder(model)
    if folder is not None and is_adapter(folder):
        base = read_object(folder / ADAPTER).get("base_model_name_or_path")
        return find_facts(str(base), chat_template, parameters)
    found = _of_folder(folder) if folder else None
    if found is None and parameters:
        shape = _nearest(parameters)
        size = CheckpointSize(parameters, parameters * BYTES["bf16"], shape.matrices())
        found = ModelFacts(size, shape, "--parameters; shape of a Llama of about this size, stored in bf16", folder)
    return found


def read_parameters(text: str) -> int:
    """`8b`, `135m` or a plain number. Raises UserError."""
    number, unit = (text[:-1], UNITS[text[-1:].lower()]) if text[-1:].lower() in UNITS else (text, 1.0)
    try:
        found = round(float(number) * unit)
    except ValueError:
        found = 0
    if found < 1:
        raise UserError(
            f"{text} is not a number of parameters", where="--parameters", do="write 8b, 135m or 8030261248"
        )
    return found


def _of_folder(folder: Path) -> ModelFacts | None:
    """From headers and config.json; without weights, from a model without numbers that transformers makes."""
    config = read_model_config(str(folder))
    if config is None:
        return None
    shape = _shape({ours: _first(config, names) for ours, names in NAMES.items()})
    size = _measure(folder)
    if size is not None:
        return ModelFacts(size, shape, "the headers of its files", folder)
    parameters = _count_by_config(folder)
    stored = parameters * (4 if "float32" in (config.get("dtype"), config.get("torch_dtype")) else 2)
    return ModelFacts(CheckpointSize(parameters, stored, shape.matrices()), shape, "its config.json", folder)


def _measure(folder: Path) -> CheckpointSize | None:
    """The size of its weights; of a multimodal checkpoint, of the language part that icr takes out of it."""
    if not has_other_parts(folder):
        return measure_checkpoint(str(folder))
    try:
        _, names = find_language_part(folder, str(folder))
        stored = read_headers(folder, str(folder))
    except UserError:
        return None  # that it has none is said by the preflight
    return measure_tensors({name: stored[source] for name, source in names.items()})


NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head": ("head_dim",),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
}
"""What architectures call it: most; GPT-2; others."""


def _first(config: Mapping[str, object], names: Sequence[str]) -> object:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _shape(config: Mapping[str, object]) -> Shape:
    def number(name: str, other: int) -> int:
        value = config.get(name)
        return value if isinstance(value, int) and value > 0 else other

    hidden, heads = number("hidden", 1), number("heads", 1)
    return Shape(
        layers=number("layers", 1),
        hidden=hidden,
        kv_heads=number("kv_heads", heads),
        head=number("head", hidden // heads),
        intermediate=number("intermediate", 4 * hidden),
        vocabulary=number("vocabulary", 1),
    )


def _count_by_config(folder: Path) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return sum(p.numel() for p in model.parameters())


def _of_gguf(path: Path) -> ModelFacts:
    """From the file's own header. Its run will store it dequantised, in fp32."""
    from gguf import GGUFReader

    reader = GGUFReader(path)

    def field(name: str) -> object:
        found = reader.get_field(name)
        return None if found is None else found.contents()

    kind = field("general.architecture")
    names = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
    keys = (*names, "attention.key_length", "feed_forward_length", "vocab_size")
    shape = _shape({ours: field(f"{kind}.{theirs}") for ours, theirs in zip(NAMES, keys, strict=True)})
    parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
    size = CheckpointSize(parameters, parameters * BYTES["fp32"], shape.matrices())
    return ModelFacts(size, shape, "the .gguf file's header")


def _nearest(parameters: int) -> Shape:
    """The shape of the known model whose size is the least factor away."""
    known = min(LIKE_LLAMA, key=lambda of: max(of / parameters, parameters / of))
    return Shape(*LIKE_LLAMA[known])
