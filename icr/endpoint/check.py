"""What can be known to be wrong with an endpoint's settings before anything is asked."""

from __future__ import annotations

from icr.base.errors import ConfigError, UserError
from icr.config.schema import Endpoint as Settings
from icr.endpoint.address import Address
from icr.endpoint.limits import Meter
from icr.endpoint.prices import Price, find_price


def check_endpoint(model: str, settings: Settings) -> None:
    """Check address, key, file of prices and budget; nothing is sent.

    Raises:
        ConfigError: every problem found.
    """
    problems: list[UserError] = []
    address: Address | None = None
    price: Price | None = None
    try:
        address = Address.find(settings)
    except UserError as error:
        problems.append(error)
    try:
        price = find_price(model, address.base if address else "", settings.prices)
        if address is not None:
            Meter(model, price, settings)
    except UserError as error:
        problems.append(error)
    if problems:
        raise ConfigError(problems)
