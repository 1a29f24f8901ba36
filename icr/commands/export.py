"""`icr export`: a round for other tools and for the hub."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.errors import UserError
from icr.commands.options import OUTPUT, JsonOption, print_json, stderr

if TYPE_CHECKING:
    from icr.base.rundir import RoundDir

Form = Annotated[str, typer.Option("--to", metavar="FORM", help="hub, gguf, trl, llama-factory or alpaca-eval.")]


def export(
    round_: Annotated[Path, typer.Argument(metavar="RUN/round-N", help="A round's folder.")],
    to: Form,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="OUT", help="Folder to write; for gguf a file.", rich_help_panel=OUTPUT),
    ],
    license_: Annotated[
        str | None, typer.Option("--license", metavar="LICENCE", help="hub: licence for the card, such as apache-2.0.")
    ] = None,
    data_license: Annotated[
        str | None,
        typer.Option("--data-license", metavar="LICENCE", help="hub: licence of the prompts and pairs, for the card."),
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="REPOSITORY", help="hub: upload to this repository, org/name.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="hub: a new repository is public, not private.")] = False,
    llama_cpp: Annotated[
        Path | None,
        typer.Option("--llama-cpp", metavar="FOLDER", help="gguf: a clone of llama.cpp, which has the converter."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a round's model, pairs or answers for another tool.

    hub: the model with a model card. gguf: the model as a file for llama.cpp. trl, llama-factory: the pairs as chat
    messages. alpaca-eval: the answers. Nothing is uploaded without --push.
    """
    from icr.base.rundir import open_round
    from icr.report.export import FORMS

    at, forms = open_round(round_), ("hub", "gguf", *FORMS)
    if to not in forms:
        raise UserError(f"unknown form {to}", where="--to", do=f"choose one of {', '.join(forms)}")
    of_hub = {"--license": license_, "--data-license": data_license, "--push": push, "--public": public}
    _refuse_others(to, {"hub": of_hub, "gguf": {"--llama-cpp": llama_cpp}})
    if to == "hub":
        _hub(at, out, license_, data_license, push, public, json_)
        return
    if to == "gguf":
        count, unit = _gguf(at, round_, out, llama_cpp), "parameters"
    else:
        _refuse_existing(out)
        count, unit = FORMS[to](at, out), "languages" if to == "alpaca-eval" else "pairs"
    print_json({"out": out, unit: count}) if json_ else print(f"wrote {out}: {count:,} {unit}")


def _refuse_others(to: str, options: Mapping[str, Mapping[str, object]]) -> None:
    """Raises UserError for an option of another form. `options` has the values of each form's own."""
    for form, own in options.items():
        given = [name for name, value in own.items() if value]
        if given and form != to:
            raise UserError(f"{given[0]} belongs to --to {form}", where=f"--to {to}", do="leave it out")


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists", where="--out", do="choose another path")


def _gguf(at: RoundDir, asked: Path, out: Path, clone: Path | None) -> int:
    """Convert the model; how many parameters the file has. `asked` is the round as it was typed."""
    from icr.report.export import trained_model
    from icr.report.gguf_file import CLONE, export_gguf

    trained_model(at)  # nobody should get a clone for a model that is not there
    if out.suffix != ".gguf":
        raise UserError(f"{out} is not the name of a GGUF file", where="--out", do=f"write --out {out}.gguf")
    _refuse_existing(out)
    if clone is None:
        again = shlex.join(["icr", "export", str(asked), "--to", "gguf", "--out", str(out)])
        raise UserError(
            "llama.cpp has the converter to GGUF, and no clone of it is named",
            where="--to gguf",
            do=f"{CLONE}; then {again} --llama-cpp llama.cpp",
        )
    with stderr().status(f"converting {asked}"):
        return export_gguf(at, out, clone)


def _hub(
    at: RoundDir, out: Path, license_: str | None, data_license: str | None, push: str | None, public: bool, json_: bool
) -> None:
    from icr.report.export import export_model, is_exported, write_card

    card, missing = write_card(at, license_=license_, data_license=data_license)
    again = push is not None and is_exported(at, out, card)  # an upload that failed is tried again
    if not again:
        _refuse_existing(out)
        export_model(at, out, card)
    for key in missing:
        why = f"add --{key.replace(' ', '-')}" if key.endswith("license") else "no model of this run is on the hub"
        print(f"note: the card has no {key} ({why})", file=sys.stderr)
    if not json_:
        print(f"{out} is complete" if again else f"wrote {out}")
    url = _push(out, push, private=not public) if push else None
    if json_:
        print_json({"out": out, "missing_in_card": missing, "uploaded_to": url})
    elif url:
        print(f"uploaded to {url}")


def _push(folder: Path, repository: str, *, private: bool) -> str:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # also of the hub's own transfer, hf_xet
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        upload = shlex.join(["hf", "upload", repository, str(folder), *(["--private"] if private else [])])
        raise UserError(
            f"the upload failed: {first}",
            where=f"--push {repository}",
            do=f"log in with hf auth login and run the same command again; {folder} is complete, so this does it too: "
            f"{upload}",
        ) from error
    return str(url)
