"""What a JSON object becomes where its reader alone knows its keys: summaries, records, a user's settings."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]
"""Values by name; plain JSON. Rows of tables have types of their own, see `icr.rows`."""
