"""The `openai` client on its light path: a thousand requests a second from one core.

Address, key, headers, transport (aiohttp) and errors are the package's. But its own `create` builds address, headers
and options anew for each request and objects out of each reply, which takes twice the time of everything else here.
"""

from __future__ import annotations

import json
import ssl
from types import TracebackType
from typing import Any, Self

import aiohttp  # noqa: F401 - the transport would import it while the first requests wait
import httpx2
import openai

from eval.address import Address


class ChatClient:
    """Chat completions as bytes, for one event loop. No retries."""

    def __init__(self, address: Address, timeout: float) -> None:
        """`timeout`: seconds, of each step of a request."""
        # certificates take a while to load; without TLS there are none, and so no redirect to where they are needed
        tls = address.url.startswith("https:")
        self._http = openai.DefaultAioHttpClient(verify=tls, follow_redirects=tls)
        self._openai = openai.AsyncOpenAI(
            api_key=address.key, base_url=address.url, max_retries=0, http_client=self._http
        )
        self._url = httpx2.URL(f"{self._openai.base_url}chat/completions")
        self._timeout = {"timeout": httpx2.Timeout(timeout).as_dict()}
        self._headers = {"Authorization": f"Bearer {self._openai.api_key}"} | {
            name: value
            for name, value in self._openai.default_headers.items()
            # the package would tell this machine's system and versions, too
            if isinstance(value, str) and not name.startswith("X-Stainless")
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._openai.close()

    async def post(self, body: dict[str, Any]) -> bytes:
        """The reply of status 200, whatever it is.

        Raises:
            openai.APIError: no reply, or another status.
        """
        content = json.dumps(body).encode()
        request = httpx2.Request("POST", self._url, headers=self._headers, content=content, extensions=self._timeout)
        try:
            response = await self._http.send(request)
        except httpx2.TimeoutException as error:
            raise openai.APITimeoutError(request=request) from error
        except (httpx2.RequestError, ssl.SSLError) as error:
            raise openai.APIConnectionError(request=request) from error
        if response.status_code != 200:
            raise self._openai._make_status_error_from_response(response)
        return response.content
