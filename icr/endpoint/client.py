"""The `openai` client on its light path: a thousand requests a second from one core.

Address, key, headers and errors are the package's. But its own `create` builds address, headers and options again for
each request and objects from each reply, and even its transport alone, which is based on aiohttp, takes half as long
again as aiohttp does. So requests are sent with aiohttp itself, and the package handles those that fail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
import httpx2
import openai

from icr.endpoint.address import Address


def openai_client(address: Address) -> openai.AsyncOpenAI:
    """The package's client. It loads certificates, so one is made for all event loops."""
    return openai.AsyncOpenAI(api_key=address.key, base_url=address.base, max_retries=0)


class ChatClient:
    """Chat completions as bytes, for one event loop. No retries."""

    def __init__(self, client: openai.AsyncOpenAI, address: Address, timeout: float) -> None:
        """`timeout`: seconds, of each step of a request."""
        self._openai = client
        self._url = address.chat
        headers = address.headers | {
            name: value
            for name, value in self._openai.default_headers.items()
            # the package would tell this machine's system and versions, too
            if isinstance(value, str) and not name.startswith(("X-Stainless", "Authorization"))
        }
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout),
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=address.proxy,
        )
        # a redirect is followed where TLS says whose it is
        self._redirects = address.url.startswith("https:")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def post(self, body: Mapping[str, object]) -> bytes:
        """The reply of status 200, whatever it is.

        Raises:
            openai.APIError: no reply, or another status.
        """
        content = json.dumps(body).encode()
        try:
            async with self._session.post(self._url, data=content, allow_redirects=self._redirects) as response:
                reply = await response.read()
        except TimeoutError as error:
            raise openai.APITimeoutError(request=self._request(content)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise openai.APIConnectionError(request=self._request(content)) from error
        if response.status == 200:
            return reply
        # the text is unpacked already
        headers = [(name, value) for name, value in response.headers.items() if name.lower() != "content-encoding"]
        as_openai_reads_it = httpx2.Response(
            response.status, headers=headers, content=reply, request=self._request(content)
        )
        raise self._openai._make_status_error_from_response(as_openai_reads_it)

    def _request(self, content: bytes) -> httpx2.Request:
        return httpx2.Request("POST", self._openai.base_url, content=content)  # the address alone, which errors show
