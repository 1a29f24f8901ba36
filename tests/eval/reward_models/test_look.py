"""`icr rm look` on tiny models: the tables, the page, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from eval.reward_models.look import Look, check_look, look_into
from eval.reward_models.spaces import effective_rank, largest_share, relative_frobenius, retrieval
from icr.base.errors import ConfigError
from icr.commands.main import app
from icr.engines.body import Body
from icr.report.look import left_out_texts, write_look_page
from tests.helpers.inline import run_inline, silent
from tests.helpers.pages import Page, assert_sound
from tests.helpers.reward_models import make_decoder, make_encoder, make_folder, pair_rows

TEXTS = {
    "en": [f"The whale {n} swims in the river and tells a story." for n in range(6)],
    "de": [f"Der Wal {n} schwimmt im Fluss." for n in range(6)],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base") / "encoder")


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose layers are the base's with noise."""
    folder = tmp_path_factory.mktemp("model") / "rm"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        for weight in made.parameters():
            weight.data += 0.05 * torch.randn_like(weight)
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    for lang, texts in TEXTS.items():
        rows = [{"id": f"t{n}", "instruction": text} for n, text in enumerate(texts)]
        rows += [{"id": "only", "instruction": "The river."}] if lang == "en" else []
        (folder / f"{lang}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


def look(models: list[Path], **changes: object) -> Look:
    given = {
        "data": None, "split": "all", "parallel": None, "languages": None, "limit": 500, "base": None,
        "place": "last", "rates": None, "column": "win_rate", "features": None,
    }  # fmt: skip
    return Look([str(model) for model in models], **{**given, **changes})  # type: ignore[arg-type]


def states_of(folder: Path, texts: list[str]) -> np.ndarray:
    """By the text, one at a time, of transformers: shape (texts, layers, dimensions)."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        every = [model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True) for text in texts]
    return np.array([[layer[0, -1].numpy() for layer in one.hidden_states] for one in every], dtype=np.float64)


def test_spaces_and_norms_are_those_of_the_model(
    base: Path, model: Path, parallel: Path, tmp_path: Path, inline: list[str]
) -> None:
    asked = look([model], parallel=str(parallel), languages=["en", "de"], base=str(base))
    result = look_into(asked, tmp_path, silent())
    ours, theirs = ({lang: states_of(folder, texts) for lang, texts in TEXTS.items()} for folder in (model, base))
    assert result["texts"] == 6 and result["left_out"] == 1 and len(result["spaces"]) == 2 * 3
    for row in result["spaces"]:
        h, h0 = (of[row["language"]][:, row["layer"]] for of in (ours, theirs))
        assert row["largest_share"] == pytest.approx(largest_share(h), abs=1e-5)
        assert row["effective_rank"] == pytest.approx(effective_rank(h), abs=1e-3)
        assert row["frobenius"] == pytest.approx(relative_frobenius(h, h0), abs=1e-5) and row["frobenius"] > 0.01
        assert 0 < row["cosine"] < 1
        # the last token's embedding is the same for texts of one length, so layer 0 may have no spread
        assert row["cka"] is None if np.ptp(h, axis=0).max() == 0 else 0 <= row["cka"] < 1
    assert [row["share"] for row in result["retrieval"]] == [
        retrieval(ours["en"][:, n], ours["de"][:, n]) for n in range(3)
    ]
    table = load_file(model / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = [id for text in TEXTS["de"] for id in tokenizer(text, add_special_tokens=False)["input_ids"]]
    found = next(row for row in result["norms"] if row["language"] == "de")
    assert found["tokens"] == len(ids) and found["mean"] == pytest.approx(
        table[ids].norm(dim=1).mean().item(), abs=1e-5
    )
    assert json.loads((tmp_path / "look.json").read_text()) == result
    assert (tmp_path / "spaces.csv").read_text().startswith("model,language,layer,too_long,n,largest_share")
    page = Page(write_look_page(result, tmp_path).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "rm: σ₁ / Σσ" in page.text and "Wasserstein" in page.text

    before = len(inline)
    assert look_into(asked, tmp_path, silent()) == result and len(inline) == before  # kept


def test_words_of_pairs_and_features_in_one_go(
    model: Path, tmp_path: Path, inline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder(tmp_path / "pairs", pair_rows(24))
    (tmp_path / "rates.csv").write_text("source,target,win_rate\n" + "".join(
        f"{a},{b},{50 + 5 * (a != 'ru' and b != 'ru') + n}\n"
        for n, (a, b) in enumerate([("de", "en"), ("en", "de"), ("ru", "de"), ("ru", "en")])
    ))  # fmt: skip
    (tmp_path / "features.csv").write_text("language,script\nde,Latn\nen,Latn\nru,Cyrl\n")
    arguments = ["rm", "look", str(model), "--data", str(data), "--out", str(tmp_path / "out")]
    arguments += ["--rates", str(tmp_path / "rates.csv"), "--features", str(tmp_path / "features.csv")]
    app(arguments, standalone_mode=False)
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "look.json").read_text())
    english = result["words"][0]
    assert english["language"] == "en" and 0 < english["r2"] <= 1 and english["n"] == 48
    assert {word["word"] for word in english["raising"] + english["lowering"]} >= {"yes", "no"}
    assert "how far words explain" in printed and "as the target" in printed
    assert [row["group"] for row in result["features"]] == ["same", "Cyrl", "Latn"]
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert_sound(page)
    assert (tmp_path / "out" / "heaviest_words.csv").read_text().count("\n") > 4


def test_a_decoder_is_read_at_its_last_token_whatever_the_batch(tmp_path: Path) -> None:
    folder = make_decoder(tmp_path / "decoder")
    texts = ["The whale.", "A much longer text about the river and the shark <|im_end|> of the story.", "x"]
    together = Body(str(folder), 4096).represent(texts, "last")
    for text, one in zip(texts, together, strict=True):
        alone = Body(str(folder), 4096).represent([text], "last")[0]
        assert one is not None and alone is not None
        np.testing.assert_allclose(np.array(one.states), np.array(alone.states), atol=1e-5)
    mean = Body(str(folder), 4096).represent(["x x"], "mean")[0]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(**tokenizer("x x", return_tensors="pt"), output_hidden_states=True).hidden_states
    assert mean is not None and np.allclose(mean.states[-1], states[-1][0].mean(dim=0).numpy(), atol=1e-5)
    spelt = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert spelt not in Body(str(folder), 4096).tokenizer("x")["input_ids"]


def test_texts_that_are_too_long_are_counted_and_weights_have_to_be_there(
    base: Path, parallel: Path, tmp_path: Path, inline: list[str]
) -> None:
    short = make_encoder(tmp_path / "short", context=40)
    result = look_into(look([short], parallel=str(parallel), languages=["en", "de"]), tmp_path / "out", silent())
    lengths = [len(AutoTokenizer.from_pretrained(short)(text)["input_ids"]) for text in TEXTS["en"]]
    long = sum(n > 40 for n in lengths)
    assert result["spaces"][0]["too_long"] == long and result["spaces"][0]["cka"] is None
    assert long == 0 or left_out_texts(result) == [f"short: {long} of 6 texts are longer than a model reads, left out"]
    broken = make_encoder(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights.pop("encoder.layer.0.output.dense.weight")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(Exception, match="no weights for encoder"):
        Body(str(broken), 4096)


def test_everything_wrong_is_said_at_once(model: Path, parallel: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_look(look([model, model], data=tmp_path, parallel=str(parallel), base="./nowhere", rates="r.csv"))
    text = str(caught.value)
    for what in (
        "two models are called rm", "not a folder of preference data", "needs the languages", "./nowhere",
        "--rates and --features need each other",
    ):  # fmt: skip
        assert what in text, text
    with pytest.raises(ConfigError, match="nothing to measure"):
        check_look(look([model]))
    with pytest.raises(ConfigError, match="distances to a base need parallel texts"):
        check_look(look([model], base=str(model), data=None))
