"""Address and key of an endpoint. The key comes from OPENAI_API_KEY or the address, and is in no message or file."""

from __future__ import annotations

import ipaddress
import os
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from icr.base.errors import UserError
from icr.base.secrets import HIDDEN, find_secrets, reveal
from icr.config.schema import Endpoint as Settings

DEFAULT_ENDPOINT = "https://api.openai.com/v1"
NO_KEY = "none-needed"


def show_address(settings: Settings) -> str:
    """The address that settings and environment name, without what may be a secret in it; checked by `Address.find`."""
    return _shown(_name_address(settings))


def _name_address(settings: Settings) -> str:
    return settings.base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or DEFAULT_ENDPOINT


@dataclass(frozen=True)
class Address:
    url: str = field(repr=False)
    key: str = field(repr=False)
    by_environment: bool = False
    """Named by OPENAI_BASE_URL."""

    @classmethod
    def find(cls, settings: Settings, *, key_needed: bool = True) -> Address:
        """From the config, else OPENAI_BASE_URL, else OpenAI's own.

        Raises:
            UserError: not a web address, or the key is missing (`key_needed`) and the endpoint is not on this machine.
        """
        by_environment = not settings.base_url and bool(os.environ.get("OPENAI_BASE_URL", "").strip())
        shown = _name_address(settings)
        where = "OPENAI_BASE_URL" if by_environment else settings.named("base_url")
        url = reveal(shown)
        if url is None:
            if key_needed:
                raise UserError("the endpoint's address contains a key, which icr does not save",
                                where=f"{where}: {shown}",
                                do="export the whole address as OPENAI_BASE_URL"
                                + ("" if by_environment else f", or write it again as {where}"))  # fmt: skip
            url = shown
        host = _check_url(url, where)
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key and key_needed and not _is_loopback(host) and not find_secrets(url):
            other = f", or name another endpoint with {settings.named('base_url')}" if shown == DEFAULT_ENDPOINT else ""
            raise UserError("the key for the endpoint is missing", where=f"{where}: {_shown(url)}",
                            do=f"export OPENAI_API_KEY=… (any word, if this endpoint needs no key){other}"
                            )  # fmt: skip
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError("the key for the endpoint has characters that a key cannot have", where="OPENAI_API_KEY",
                            do="export it again, without line breaks or spaces")  # fmt: skip
        return cls(url, key or NO_KEY, by_environment)

    @property
    def base(self) -> str:
        """Without user, password and query."""
        return _shown(self.url)

    @property
    def chat(self) -> str:
        """Where chat completions are asked for; parameters of the address, as Azure's api-version, come after it."""
        query = urlsplit(self.url).query
        return f"{self.base.rstrip('/')}/chat/completions" + (f"?{query}" if query else "")

    @property
    def query(self) -> dict[str, str]:
        """Parameters of the address, as Azure's api-version."""
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def headers(self) -> dict[str, str]:
        """How this address wants to be shown the key."""
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        headers = {"Authorization": f"Bearer {self.key}"}
        if "api-version=" in parts.query or (parts.hostname or "").endswith(".azure.com"):
            headers["api-key"] = self.key
        return headers

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
        for secret in (self.key, *find_secrets(self.url)):
            text = text.replace(secret, HIDDEN)
        return text


def _check_url(url: str, where: str) -> str:
    """The host of a web address. Raises UserError for anything else."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket too many
        good = False
    if not good or any(c.isspace() or not c.isprintable() for c in url):
        raise UserError("the endpoint is not a web address", where=f"{where}: {_shown(url)}",
                        do="write it like http://localhost:8000/v1")  # fmt: skip
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise UserError("the endpoint's address names one of its functions", where=f"{where}: {_shown(url)}",
                        do="remove /chat/completions from its end")  # fmt: skip
    return parts.hostname or ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    try:
        address = urlsplit(url)
    except ValueError:
        return url.rpartition("@")[2].partition("?")[0]
    if not address.netloc:  # "localhost:8000" is a scheme and a path, and so is "user:password@host"
        return url.rpartition("@")[2].partition("?")[0]
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
