"""What icr is called where packages are installed. The command and the import are `icr`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "icr-align"
"""`icr` on the public registry is another project's."""


def icr_version() -> str | None:
    """The installed version; None in a source tree that is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return None
