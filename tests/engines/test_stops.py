"""What ends an answer: the template's end, EOS, generation_config.json, `sampling.stop`; in both engines."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.engines.base import Completion, Decoding, Engine, Request, Stops
from icr.engines.stops import end_of_turn_id, find_stops, read_answer, trained_end
from icr.engines.templates import prompt_token_ids
from icr.engines.transformers_engine import TransformersEngine
from tests.helpers.tiny_models import END, make_tiny_model, make_tokenizer

HABITS: dict[str, dict[str, Any]] = {
    "what is likely": {
        "do_sample": True, "temperature": 0.1, "top_k": 2, "top_p": 0.2, "min_p": 0.5, "typical_p": 0.2,
        "repetition_penalty": 1.3, "no_repeat_ngram_size": 1, "sequence_bias": [[[40], 20.0]], "guidance_scale": 1.5,
        "suppress_tokens": list(range(5, 260)),
    },
    "where it ends": {
        "min_new_tokens": 15, "max_length": 20, "max_time": 1e-4, "forced_eos_token_id": 2, "forced_bos_token_id": 3,
        "stop_strings": ["a"], "pad_token_id": 2, "begin_suppress_tokens": [2], "bad_words_ids": [[7]],
    },
    "how many": {"num_beams": 2, "num_return_sequences": 2, "do_sample": True, "length_penalty": 2.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with more rows than its tokenizer has tokens."""
    folder = make_tiny_model(tmp_path_factory.mktemp("padded"), vocab_size=900)
    assert len(AutoTokenizer.from_pretrained(folder)) < 800
    return folder


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def engine(request: pytest.FixtureRequest, padded: Path) -> Iterator[Engine]:
    if request.param == "transformers":
        yield TransformersEngine(str(padded), "fp32", 256)
        return
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    from icr.engines.vllm_engine import VllmEngine

    made = VllmEngine(str(padded), max_model_len=256, tensor_parallel=1, gpu_memory=0.5, precision="fp32")
    yield made
    made.close()


def ask(folder: Path, count: int) -> list[Request]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [Request(prompt_token_ids(tokenizer, wrap_text(f"Name {n}.")), n) for n in range(count)]


def test_ids_of_padding_rows_are_never_sampled(engine: Engine, padded: Path) -> None:
    size = len(AutoTokenizer.from_pretrained(padded))
    completions = engine.generate(ask(padded, 16), Decoding(2.0, 1.0, 60))  # hot: all ids are about as likely
    ids = [id for completion in completions for id in completion.token_ids]
    assert len(ids) > 400 and max(ids) < size


def test_an_answer_ends_at_any_of_the_stops(engine: Engine, padded: Path) -> None:
    requests, free = ask(padded, 8), Decoding(2.0, 1.0, 30, Stops((2,)))
    before = engine.generate(requests, free)
    stop = before[0].token_ids[7]
    for completion, whole in zip(
        engine.generate(requests, Decoding(2.0, 1.0, 30, Stops((2, stop)))), before, strict=True
    ):
        place = whole.token_ids.index(stop) if stop in whole.token_ids else len(whole.token_ids)
        assert completion.token_ids == whole.token_ids[: place + 1]
        assert completion.finish_reason == ("stop" if stop in whole.token_ids else whole.finish_reason)


def test_an_answer_ends_at_a_text_of_several_tokens(engine: Engine, padded: Path) -> None:
    requests, tokenizer = ask(padded, 8), AutoTokenizer.from_pretrained(padded)
    before = engine.generate(requests, Decoding(2.0, 1.0, 30, Stops((2,))))
    place = next(n for n in range(4, 20) if tokenizer.decode(before[0].token_ids[n : n + 2]).isascii())
    text = tokenizer.decode(before[0].token_ids[place : place + 2])
    stops = Stops((2,), (text,))
    cut = engine.generate(requests, Decoding(2.0, 1.0, 30, stops))[0]
    whole = tokenizer.decode(before[0].token_ids)
    assert cut.finish_reason == "stop" and cut.token_ids == before[0].token_ids[: len(cut.token_ids)]
    assert len(cut.token_ids) <= place + 2 and text in tokenizer.decode(cut.token_ids)
    assert read_answer(tokenizer, cut, stops) == whole[: whole.index(text)]


def test_sampling_habits_of_a_checkpoint_change_nothing(tmp_path: Path) -> None:
    """The responses are those without them: temperature and top_p of the settings are all that counts (Eq. 7)."""
    folder = make_tiny_model(tmp_path)
    file = folder / "generation_config.json"
    requests, decoding = ask(folder, 4), Decoding(1.0, 0.9, 24)
    plain: list[Completion] = []
    for habits in ({}, *HABITS.values()):
        file.write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 0} | habits))
        found = TransformersEngine(str(folder), "fp32", 256).generate(requests, decoding)
        plain = plain or found
        assert found == plain
    assert any(len(completion.token_ids) == 24 for completion in plain)


def test_a_template_whose_end_is_not_eos(tmp_path: Path) -> None:
    """As Llama 3: EOS is <|end_of_text|>, a turn ends with <|eot_id|>, which is an added token like any other."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<|eot_id|>", special=False)])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}\n<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert end_of_turn_id(tokenizer) == end != tokenizer.eos_token_id
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7, 100_000]}))
    stops = find_stops(tokenizer, str(tmp_path), [END, "<|im_start|>", "\n\nHuman:"])
    assert stops == Stops((end, tokenizer.eos_token_id, 0, 7, 1), ("\n\nHuman:",))
    assert trained_end(tokenizer, stops) == [end]
    ids = tokenizer("The whale.", add_special_tokens=False)["input_ids"]
    assert read_answer(tokenizer, Completion([*ids, end], "stop"), stops) == "The whale."
    assert read_answer(tokenizer, Completion([*ids, end], "length"), Stops((2,))) == "The whale.<|eot_id|>"


def test_where_no_template_says_how_an_answer_ends(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}### assistant:"
    )
    assert find_stops(tokenizer, str(tmp_path)).ids == (2,) and end_of_turn_id(tokenizer) == 2
    # a template that takes no answer at the end of a conversation
    tokenizer.chat_template = (
        "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('Last message must be from user') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}<|im_start|>{% endfor %}"
    )
    assert find_stops(tokenizer, str(tmp_path)).ids == (1, 2)
    tokenizer.eos_token = None
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(UserError, match=r"nothing ends an answer.*\n.*\n.*sampling\.stop"):
        find_stops(tokenizer, str(tmp_path))
    by_text = find_stops(tokenizer, str(tmp_path), ["###"])
    assert by_text == Stops((), ("###",))
    assert trained_end(tokenizer, by_text) == tokenizer("###", add_special_tokens=False)["input_ids"]
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 5}}))
    assert find_stops(tokenizer, str(tmp_path)).ids == (5,)


def test_an_engine_without_settings_stops_at_the_models_own_ends(tmp_path: Path) -> None:
    """EOS and generation_config.json say <|pad|>; the template ends a turn with <|im_end|>."""
    folder = make_tiny_model(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|pad|>"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    completions = TransformersEngine(str(folder), "fp32", 256).generate(ask(folder, 64), Decoding(2.0, 1.0, 60))
    ends = [completion for completion in completions if 2 in completion.token_ids]
    assert ends and all(completion.token_ids.index(2) == len(completion.token_ids) - 1 for completion in ends)
    assert find_stops(AutoTokenizer.from_pretrained(folder), str(folder)).ids == (2, 0)
