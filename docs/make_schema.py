"""`python -m docs.make_schema`: configs/icr.schema.json, which editors read to complete and check a config."""

from __future__ import annotations

import json

from icr.config.schema import CONFIGS, Config

PATH = CONFIGS / "icr.schema.json"


def render() -> str:
    """The JSON schema of a config, from the types and docstrings of icr/config/schema.py."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    schema["title"] = "icr"
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
