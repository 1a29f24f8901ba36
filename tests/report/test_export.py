from __future__ import annotations

import shutil
import sys
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
        (["--to", "gguff"], "(?s)unknown form gguff.*alpaca-eval, gguf"),
        (["--to", "trl", "--push", "a/b"], "belong to --to hub"),
        (["--to", "trl", "--converter", "a"], "belongs to --to gguf"),
        (["--to", "alpaca-eval"], "no answers to held-out prompts"),
    ):
        with pytest.raises(Exception, match=says):
            export(run, tmp_path / "o", *options)
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
    model = run.round(1).model
    model.mkdir(exist_ok=True)
    (model / "README.md").write_text("---\nlanguage: [en]\n---\n", encoding="utf-8")
    write_json(run.round(0).path / "model.json", {"policy": "org/chat", "reference": "org/base"})
    pushing, upload = ["--to", "hub", "--push", "org/name"], f"hf upload org/name {tmp_path / 'o'}"
    with pytest.raises(UserError, match=r"the upload failed: .") as caught:  # tests are offline
        export(run, tmp_path / "o", *pushing)
    assert caught.value.do.endswith(f"{upload} --private"), "without it a new repository would be public"
    assert (tmp_path / "o" / "README.md").is_file()
    with pytest.raises(UserError, match="exists") as caught:  # the same command again
        export(run, tmp_path / "o", *pushing)
    assert caught.value.do.endswith(f"{upload} --private")
    with pytest.raises(UserError, match="exists") as caught:
        export(run, tmp_path / "o", *pushing, "--public")
    assert caught.value.do.endswith(upload)


def test_a_round_that_is_not_there_or_has_lost_its_model(run: RunDir, tmp_path: Path) -> None:
    def refuse(folder: Path) -> UserError:
        done = CliRunner().invoke(app, ["export", str(folder), "-o", str(tmp_path / "o"), "--to", "hub"])
        assert isinstance(done.exception, UserError)
        return done.exception

    missing, whole = refuse(run.path / "round-7"), refuse(run.path)
    assert missing.what == f"the run {run.path} has no round-7" and "is a run, not a round of a run" in whole.what
    assert missing.do == whole.do == f"name one of its rounds: {run.path}/round-N (round-0, round-1)"
    assert "is not a round of a run" in refuse(tmp_path).what
    shutil.rmtree(run.round(1).model, ignore_errors=True)
    gone = refuse(run.round(1).path)
    assert (gone.what, gone.where) == ("the model of round 1 is gone", str(run.round(1).model))
    run.round(1).start("train")
    assert "has no trained model yet" in refuse(run.round(1).path).what


CONVERTER = """
import sys
from gguf import GGUFWriter

model, *options = sys.argv[1:]
assert options[::2] == ["--outfile", "--outtype"] and options[3] == "bf16" and model.endswith("/round-1/model")
if {fails}:
    open(options[1], "w").write("half of it")
    sys.exit("Model MadeUpForCausalLM is not supported")
writer = GGUFWriter(options[1], "llama")
writer.add_block_count(1)
if {whole}:
    import numpy

    writer.add_tensor("output.weight", numpy.ones((4, 32), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
else:
    open(options[1], "w").write("no GGUF")
"""
"""A stand-in for that of llama.cpp."""


def clone(folder: Path, fails: bool = False, whole: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    script = folder / "convert_hf_to_gguf.py"
    script.write_text(f"#!{sys.executable}\n" + CONVERTER.format(fails=fails, whole=whole))
    script.chmod(0o755)
    return folder


def test_a_gguf_file_by_the_converter(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.round(1).model.mkdir(exist_ok=True)
    there, out = clone(tmp_path / "llama.cpp"), tmp_path / "out" / "my"
    said = export(run, out, "--to", "gguf", "--converter", str(there))
    assert f"wrote {out}.gguf: 1 tensors" in said and [p.name for p in out.parent.iterdir()] == ["my.gguf"]
    with pytest.raises(UserError, match=r"my\.gguf exists"):
        export(run, out, "--to", "gguf", "--converter", str(there))
    monkeypatch.setenv("PATH", f"{there}:/usr/bin:/bin")
    export(run, tmp_path / "other.gguf", "--to", "gguf")
    assert (tmp_path / "other.gguf").read_bytes()[:4] == b"GGUF"


def test_a_conversion_that_fails_leaves_no_file(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.round(1).model.mkdir(exist_ok=True)
    out = tmp_path / "out" / "my.gguf"
    for broken, says in (({"fails": True}, "is not supported"), ({"whole": False}, "wrote no GGUF file")):
        there = clone(tmp_path / "llama.cpp", **broken)
        with pytest.raises(UserError, match=says) as caught:
            export(run, out, "--to", "gguf", "--converter", str(there))
        assert caught.value.where == str(there / "convert_hf_to_gguf.py") and not list(out.parent.iterdir())
    with pytest.raises(UserError, match="not found") as caught:
        export(run, out, "--to", "gguf", "--converter", str(tmp_path / "none"))
    assert "git clone" in caught.value.do
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(UserError, match="not on this machine's PATH") as caught:
        export(run, tmp_path / "my", "--to", "gguf")
    model = run.round(1).model.resolve()
    assert f"convert_hf_to_gguf.py {model} --outfile {tmp_path / 'my.gguf'} --outtype bf16" in caught.value.do
    shutil.rmtree(model)
    with pytest.raises(UserError, match="the model of round 1 is gone"):
        export(run, tmp_path / "my", "--to", "gguf")
