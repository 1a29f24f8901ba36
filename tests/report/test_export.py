from __future__ import annotations

import shutil
from pathlib import Path

import httpx2
import pytest
import yaml
from datasets import load_dataset
from trl.data_utils import is_conversational
from typer.testing import CliRunner

from icr.base.errors import UserError
from icr.base.files import read_json, read_rows, write_json
from icr.base.rundir import RunDir
from icr.commands.main import app
from tests.helpers.fake_run import LANGUAGES, build


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return build(tmp_path / "short", rounds=1)


def export(run: RunDir, out: Path, *options: str) -> str:
    done = CliRunner().invoke(app, ["export", str(run.round(1).path), "-o", str(out), *options])
    if done.exception:
        raise done.exception
    return done.stdout + done.stderr


CONVERTER = """
import sys
from pathlib import Path

import numpy
from gguf import GGUFWriter

model, outfile = sys.argv[1], sys.argv[-1]
assert sys.argv[2:-1] == ["--model-name", "short round 1", "--outfile"], sys.argv
assert (Path(model) / "README.md").is_file() and "{" not in Path(outfile).name and outfile.endswith(".gguf")
WHAT
writer = GGUFWriter(outfile, "llama")
writer.add_tensor("token_embd.weight", numpy.ones((4, 8), dtype=numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def write_model(run: RunDir) -> Path:
    model = run.round(1).model
    model.mkdir(exist_ok=True)
    (model / "README.md").write_text("---\nlanguage: [en]\n---\n", encoding="utf-8")
    write_json(run.round(0).path / "model.json", {"policy": "org/chat", "reference": "org/base"})
    return model


def write_converter(folder: Path, what: str = "") -> Path:
    """A stand-in for a clone of llama.cpp, whose converter does `what` before it writes."""
    folder.mkdir(exist_ok=True)
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER.replace("WHAT", what), encoding="utf-8")
    return folder


def test_pairs_for_trl(run: RunDir, tmp_path: Path) -> None:
    said = export(run, tmp_path / "o", "--to", "trl")
    pairs = read_rows(run.round(1).pairs)
    assert f"{len(pairs)} pairs" in said
    rows = load_dataset("json", data_files=str(tmp_path / "o" / "pairs.jsonl"), cache_dir=str(tmp_path / "c"))["train"]
    assert len(rows) == len(pairs) and all(is_conversational(row) for row in rows)
    assert rows[0]["prompt"][-1] == {"role": "user", "content": pairs[0]["prompt"]}
    assert rows[0]["chosen"] == [{"role": "assistant", "content": pairs[0]["chosen"]}]


def test_what_is_missing_is_made_by_the_command_that_is_shown(run: RunDir, tmp_path: Path) -> None:
    run.round(1).pairs.unlink()
    with pytest.raises(UserError, match="has no pairs") as caught:
        export(run, tmp_path / "o", "--to", "trl")
    assert caught.value.do.endswith(f"icr iterate --run {run.path}"), "without --run it would be the quickstart"


def test_pairs_for_llama_factory(run: RunDir, tmp_path: Path) -> None:
    export(run, tmp_path / "o", "--to", "llama-factory")
    info = read_json(tmp_path / "o" / "dataset_info.json")["icr"]
    rows = read_json(tmp_path / "o" / info["file_name"])
    pair = read_rows(run.round(1).pairs)[0]
    assert info["ranking"] and info["formatting"] == "sharegpt" and set(info["columns"].values()) == rows[0].keys()
    assert rows[0]["conversations"] == [{"from": "human", "value": pair["prompt"]}]
    assert rows[0]["rejected"] == {"from": "gpt", "value": pair["rejected"]}


def test_a_model_for_the_hub(run: RunDir, tmp_path: Path) -> None:
    model = run.round(1).model
    model.mkdir(exist_ok=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "README.md").write_text("---\nlanguage: [en, es]\n---\n\n# icr, round 1\n", encoding="utf-8")
    names = run.round(0).path / "model.json"
    write_json(names, {"policy": "org/chat@0123456", "reference": str(tmp_path / "base")})
    said = export(run, tmp_path / "o", "--to", "hub")
    assert "no license (add --license)" in said and "no data license (add --data-license)" in said
    text = (tmp_path / "o" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["base_model"] == ["org/chat"] and head["pipeline_tag"] == "text-generation"
    assert (tmp_path / "o" / "model.safetensors").read_bytes() == b"weights"
    row = read_json(run.round(1).summary)["languages"]["es"]
    assert f"| es | {row['n']} | {row['win_rate']:.1f} [" in text and str(tmp_path) not in text
    assert all(f"| {lang} |" in text for lang in (*LANGUAGES, "average"))
    assert "Win rates in percent against round 0's own answers, judged by" in text
    said = export(run, tmp_path / "p", "--to", "hub", "--license", "apache-2.0", "--data-license", "cc-by-4.0")
    card = (tmp_path / "p" / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "Licence of the prompts and pairs: cc-by-4.0" in card
    assert "license" not in said


def test_a_push_is_private_and_has_the_whole_card(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = run.round(1).model, list[dict[str, object]]()
    model.mkdir(exist_ok=True)
    (model / "README.md").write_text("---\nlanguage: [en]\n---\n", encoding="utf-8")
    (run.round(0).path / "model").mkdir(exist_ok=True)  # π_θ⁰ was made by the run: no model of the hub
    write_json(run.round(0).path / "model.json", {"policy": "round-0/model", "reference": "org/base"})
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda _, name, **options: asked.append(options) or name)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda _, **options: asked.append(options))
    for number, option in enumerate([[], ["--public"]]):
        out = tmp_path / f"o{number}"
        export(run, out, "--to", "hub", "--license", "apache-2.0", "--push", "org/name", *option)
        created, uploaded = asked[-2:]
        assert created["private"] is not bool(option) and uploaded["folder_path"] == out
        text = (out / "README.md").read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---\n")[1])
        assert (head["base_model"], head["license"], head["language"]) == (["org/base"], "apache-2.0", ["en"])
        assert "## Results" in text


def test_round_0_has_no_comparison_to_export(run: RunDir, tmp_path: Path) -> None:
    arguments = ["export", str(run.round(0).path), "--to", "alpaca-eval", "-o", str(tmp_path / "o")]
    refused = CliRunner().invoke(app, arguments).exception
    assert isinstance(refused, UserError) and refused.do == f"name a later round, such as {run.path}/round-1"


def test_what_is_refused(run: RunDir, tmp_path: Path) -> None:
    for options, says in (
        (["--to", "gguff"], "unknown form gguff"),
        (["--to", "trl", "--push", "a/b"], "--push belongs to --to hub"),
        (["--to", "hub", "--llama-cpp", "."], "--llama-cpp belongs to --to gguf"),
        (["--to", "alpaca-eval"], "no answers to held-out prompts"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            export(run, tmp_path / "o", *options)
        if "gguff" in options:
            assert caught.value.do == "choose one of hub, gguf, trl, llama-factory, alpaca-eval"
    (tmp_path / "o").mkdir()
    with pytest.raises(Exception, match="exists"):
        export(run, tmp_path / "o", "--to", "trl")


@pytest.mark.parametrize(
    "error",
    [None, httpx2.ConnectError("refused"), ConnectionError("Network error: of hf_xet"), RuntimeError()],
    ids=["offline", "unreachable", "transfer", "no words"],
)
def test_an_upload_that_fails_keeps_the_folder(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        assert error is not None
        raise error

    if error is not None:
        monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
    write_model(run)
    out = tmp_path / "my model"
    with pytest.raises(UserError, match=r"the upload failed: .") as caught:  # tests are offline
        export(run, out, "--to", "hub", "--push", "org/name")
    assert caught.value.do.endswith(f"hf upload org/name '{out}' --private") and (out / "README.md").is_file()
    with pytest.raises(UserError, match=r"the upload failed: .") as caught:
        export(run, tmp_path / "p", "--to", "hub", "--push", "org/name", "--public")
    assert caught.value.do.endswith(f"hf upload org/name {tmp_path / 'p'}"), "hf upload makes a public repository"


def test_an_upload_that_failed_is_done_by_the_same_command(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sent = write_model(run), list[object]()
    (model / "model.safetensors").write_bytes(b"weights")
    words = ["--to", "hub", "--push", "org/name"]
    with pytest.raises(UserError, match="the upload failed"):
        export(run, tmp_path / "o", *words)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda _, name, **options: name)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda _, **options: sent.append(options["folder_path"]))
    (tmp_path / "o" / ".cache").mkdir()
    (tmp_path / "o" / ".cache" / "log").write_text("of an upload")
    assert "uploaded to org/name" in export(run, tmp_path / "o", *words) and sent == [tmp_path / "o"]
    with pytest.raises(UserError, match="exists"):
        export(run, tmp_path / "o", *words, "--license", "mit")  # another card
    with pytest.raises(UserError, match="exists"):
        export(run, tmp_path / "o", "--to", "hub")
    (model / "model.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match="exists"):
        export(run, tmp_path / "o", *words)
    assert len(sent) == 1


def test_a_model_that_is_not_there(run: RunDir, tmp_path: Path) -> None:
    write_json(run.round(0).path / "model.json", {"policy": "org/chat", "reference": "org/base"})
    run.round(0).start("align")  # not done: the model was given
    for form in ("hub", "gguf"):
        for number, says in ((0, "round 0 of this run is org/chat"), (1, "the model of round 1 is gone")):
            shutil.rmtree(run.round(number).model, ignore_errors=True)
            words = ["export", str(run.round(number).path), "--to", form, "-o", str(tmp_path / "o.gguf")]
            refused = CliRunner().invoke(app, words).exception
            assert isinstance(refused, UserError) and says in refused.what


def test_gguf_is_written_by_the_converter_of_llama_cpp(run: RunDir, tmp_path: Path) -> None:
    write_model(run)
    clone, file = write_converter(tmp_path / "llama.cpp", "print('INFO: to stdout')"), tmp_path / "o" / "m-{ftype}.gguf"
    assert export(run, file, "--to", "gguf", "--llama-cpp", str(clone)) == f"wrote {file}: 32 parameters\n"
    assert file.read_bytes()[:4] == b"GGUF" and list(file.parent.iterdir()) == [file]
    with pytest.raises(UserError, match="exists"):
        export(run, file, "--to", "gguf", "--llama-cpp", str(clone))


def test_gguf_says_how_to_get_the_converter(run: RunDir, tmp_path: Path) -> None:
    write_model(run)
    with pytest.raises(UserError, match="no clone of it is named") as caught:
        export(run, tmp_path / "m.gguf", "--to", "gguf")
    clone, again = caught.value.do.split("; then ")
    assert clone.startswith("git clone ") and clone.endswith("/llama.cpp")
    assert again == f"icr export {run.round(1).path} --to gguf --out {tmp_path / 'm.gguf'} --llama-cpp llama.cpp"
    with pytest.raises(UserError, match=r"has no convert_hf_to_gguf\.py"):
        export(run, tmp_path / "m.gguf", "--to", "gguf", "--llama-cpp", str(tmp_path))
    with pytest.raises(UserError, match="not the name of a GGUF file") as caught:
        export(run, tmp_path / "m", "--to", "gguf")
    assert caught.value.do == f"write --out {tmp_path / 'm'}.gguf"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("open(outfile, 'wb').write(b'GGUF'); sys.exit('Model Foo is not supported')", "failed: Model Foo is not supp"),
        ("sys.exit(3)", "failed: exit status 3"),
        ("sys.exit()", "has not written a whole GGUF file"),
        ("open(outfile, 'wb').write(b'GGUF'); sys.exit()", "has not written a whole GGUF file"),
    ],
    ids=["refused", "no words", "nothing", "cut off"],
)
def test_gguf_is_whole_or_absent(run: RunDir, tmp_path: Path, what: str, says: str) -> None:
    write_model(run)
    clone, file = write_converter(tmp_path / "llama.cpp", what), tmp_path / "o" / "m.gguf"
    with pytest.raises(UserError, match=says) as caught:
        export(run, file, "--to", "gguf", "--llama-cpp", str(clone))
    assert f"{clone / 'convert_hf_to_gguf.py'} {run.round(1).model} " in caught.value.do
    assert not list(file.parent.iterdir())


def test_a_round_that_is_not_there(run: RunDir, tmp_path: Path) -> None:
    def refuse(folder: Path) -> UserError:
        done = CliRunner().invoke(app, ["export", str(folder), "-o", str(tmp_path / "o"), "--to", "hub"])
        assert isinstance(done.exception, UserError)
        return done.exception

    missing, whole = refuse(run.path / "round-7"), refuse(run.path)
    assert missing.what == f"the run {run.path} has no round-7" and "is a run, not a round of a run" in whole.what
    assert missing.do == whole.do == f"name one of its rounds: {run.path}/round-N (round-0, round-1)"
    assert "is not a round of a run" in refuse(tmp_path).what
