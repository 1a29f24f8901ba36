"""`icr export`: a round for other tools and for the hub."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from icr.base.errors import UserError
from icr.commands.options import OUTPUT, JsonOption, print_json

Form = Annotated[str, typer.Option("--to", metavar="FORM", help="hub, trl, llama-factory, alpaca-eval or gguf.")]


def export(
    round_: Annotated[Path, typer.Argument(metavar="RUN/round-N", help="A round's folder.")],
    to: Form,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="FOLDER", help="The folder to write; for gguf, the file.", rich_help_panel=OUTPUT
        ),
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
    converter: Annotated[
        Path | None,
        typer.Option(
            "--converter",
            metavar="FOLDER",
            help="gguf: a clone of llama.cpp. Default: the installed convert_hf_to_gguf.py.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a round's model, pairs or answers for another tool.

    hub: the model with a model card. trl, llama-factory: the pairs as chat messages. alpaca-eval: the answers.
    gguf: the model as one file, by the converter of llama.cpp. Nothing is uploaded without --push.
    """
    from icr.base.rundir import open_round
    from icr.report.export import FORMS, export_model
    from icr.report.gguf import export_gguf

    at = open_round(round_)
    if to not in ("hub", "gguf", *FORMS):
        raise UserError(f"unknown form {to}", where="--to", do=f"choose one of hub, {', '.join(FORMS)}, gguf")
    if to != "hub" and (license_ or data_license or push or public):
        raise UserError(
            "--license, --data-license, --push and --public belong to --to hub", where="--to", do="leave them out"
        )
    if to != "gguf" and converter:
        raise UserError("--converter belongs to --to gguf", where="--to", do="leave it out")
    if to == "gguf" and out.suffix != ".gguf":
        out = out.with_name(f"{out.name}.gguf")
    if out.exists():
        do = f", or upload what is in this one: {_upload(out, push, private=not public)}" if push else ""
        raise UserError(f"{out} exists", where="--out", do=f"choose another name{do}")
    if to != "hub":
        count = export_gguf(at, out, converter) if to == "gguf" else FORMS[to](at, out)
        unit = {"alpaca-eval": "languages", "gguf": "tensors"}.get(to, "pairs")
        print_json({"out": out, unit: count}) if json_ else print(f"wrote {out}: {count} {unit}")
        return
    missing = export_model(at, out, license_=license_, data_license=data_license)
    for key in missing:
        why = f"add --{key.replace(' ', '-')}" if key.endswith("license") else "no model of this run is of the hub"
        print(f"note: the card has no {key} ({why})", file=sys.stderr)
    if not json_:
        print(f"wrote {out}")
    url = _push(out, push, private=not public) if push else None
    if json_:
        print_json({"out": out, "missing_in_card": missing, "uploaded_to": url})
    elif url:
        print(f"uploaded to {url}")


def _upload(folder: Path, repository: str, *, private: bool) -> str:
    """The command of the hub that uploads a folder. Without --private it would make a public repository."""
    return shlex.join(["hf", "upload", repository, str(folder), *(["--private"] if private else [])])


def _push(folder: Path, repository: str, *, private: bool) -> str:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # also of the hub's own transfer, hf_xet
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the upload failed: {first}",
            where=f"--push {repository}",
            do=f"log in with hf auth login; {folder} is complete: {_upload(folder, repository, private=private)}",
        ) from error
    return str(url)
