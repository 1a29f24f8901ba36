"""`python -m docs.make_schema`: configs/*.schema.json, which editors read to complete and check a config."""

from __future__ import annotations

import json

from docs.make_config import HIDDEN
from icr.config.kinds import KINDS, Kind, schema_file


def render(kind: Kind) -> str:
    """The JSON schema of a kind of config, from the types and docstrings of icr/config.

    Keys that a section inherits and refuses are not in it.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}
    schema["title"] = kind.command
    for section, names in HIDDEN.items():
        for name in names if section.__name__ in schema["$defs"] else ():
            del schema["$defs"][section.__name__]["properties"][name]
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in KINDS:
        schema_file(each).write_text(render(each), encoding="utf-8")
