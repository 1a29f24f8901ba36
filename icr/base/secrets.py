"""Keys in web addresses, `https://user:password@host/v1?api_key=…`: they are used, and are in no file and no message.

Settings hold an address with *** in place of its secrets. The address itself is in the environment of this process,
from which its workers inherit it.
"""

from __future__ import annotations

import hashlib
import os
import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

HIDDEN = "***"
SECRET = re.compile(r"key|token|secret|password|passwd|pwd|signature|credential|auth|^sig$|^code$", re.IGNORECASE)
"""Names of the parameters of an address that are secrets."""
ADDRESS = re.compile(r"https?://[^\s'\"]+|(?<=base_url=)[^\s'\"]+")


def hide(address: str) -> str:
    """The address without its secrets, which `reveal` knows from now on."""
    try:
        shown = _without_secrets(address)
    except ValueError:  # not an address, which others say
        return address
    if shown != address:
        os.environ[_name(shown)] = address
    return shown


def reveal(shown: str) -> str | None:
    """The address that `hide` was given; None where this process and its parents were not given it."""
    return os.environ.get(_name(shown)) if HIDDEN in shown else shown


def hide_in(text: str) -> str:
    """A text without the secrets of the addresses in it."""
    return ADDRESS.sub(lambda match: hide(match[0]), text)


def find_secrets(address: str) -> list[str]:
    """The texts of an address that nobody must see."""
    parts = urlsplit(address)
    # a user's name alone may be a word of any message
    found = [parts.netloc.rpartition("@")[0], parts.password]
    found += [value for name, value in parse_qsl(parts.query) if SECRET.search(name)]
    return sorted({text for text in found if text and text != HIDDEN}, key=len, reverse=True)


def _without_secrets(address: str) -> str:
    parts = urlsplit(address)
    if not parts.netloc and "@" in parts.path:  # user:password@host, not an address, which others say
        return f"{HIDDEN}@{address.rpartition('@')[2]}"
    _, at, host = parts.netloc.rpartition("@")
    pairs = [_without_value(pair) for pair in parts.query.split("&")] if parts.query else []
    return urlunsplit(parts._replace(netloc=f"{HIDDEN}@{host}" if at else parts.netloc, query="&".join(pairs)))


def _without_value(pair: str) -> str:
    name, sep, value = pair.partition("=")
    return f"{name}={HIDDEN}" if sep and value and SECRET.search(name) else pair


def _name(shown: str) -> str:
    return "ICR_ADDRESS_" + hashlib.sha256(shown.encode()).hexdigest()[:16].upper()
