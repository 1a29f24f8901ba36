"""Address and key of an endpoint. The key comes only from OPENAI_API_KEY and is in no message, file or log."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from icr.base.errors import UserError
from icr.config.schema import Endpoint as Settings

DEFAULT_ENDPOINT = "https://api.openai.com/v1"
NO_KEY = "none-needed"


@dataclass(frozen=True)
class Address:
    url: str = field(repr=False)
    key: str = field(repr=False)

    @classmethod
    def find(cls, settings: Settings, *, key_needed: bool = True) -> Address:
        """From the config, else OPENAI_BASE_URL, else OpenAI's own.

        Raises:
            UserError: not a web address, or the key is missing (`key_needed`) and the endpoint is not on this machine.
        """
        url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_ENDPOINT
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError("the endpoint is not a web address", where=f"{settings.named('base_url')}: {_shown(url)}",
                            do="write it like http://localhost:8000/v1")  # fmt: skip
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key and key_needed and not _is_loopback(parts.hostname):
            raise UserError("the key for the endpoint is missing", where=f"{settings.named('base_url')}: {_shown(url)}",
                            do="export OPENAI_API_KEY=… (any word, if this endpoint needs no key)")  # fmt: skip
        return cls(url, key or NO_KEY)

    @property
    def is_here(self) -> bool:
        """On this machine."""
        return _is_loopback(urlsplit(self.url).hostname or "")

    @property
    def proxy(self) -> str | None:
        """The one that HTTP_PROXY, HTTPS_PROXY and NO_PROXY ask for; aiohttp would look for it at every request."""
        parts = urlsplit(self.url)
        return None if self.is_here or proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)

    @property
    def shown(self) -> str:
        """Without user, password and query, which may be secrets, too."""
        return _shown(self.url)

    def without_key(self, text: str) -> str:
        """What an endpoint says may contain the key that it was sent."""
        return text.replace(self.key, "***")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    address = urlsplit(url)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
