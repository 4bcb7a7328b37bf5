"""Where a chat endpoint is, and the key to it, which only the environment holds."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pydantic import SecretStr

from squall.platform.errors import ConfigError


def plain_address(base_url: str) -> str:
    """An address without a slash at its end. Raises ValueError where it is none, or holds what may be a secret."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("expected an http or https address, such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("no user, password or query in the address: keys come from the environment, see api_key_env")
    return base_url.rstrip("/")


def read_key(variable: str | None, section: str, base_url: str | None) -> SecretStr | None:
    """The key in an environment variable of this process; None for an endpoint that needs none.

    Args:
        section: of the configuration, to be named in the error.

    Raises:
        ConfigError: the variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"{section}.api_key_env = {variable}: this environment variable is not set, but the key of "
                          f"{base_url} is expected in it; set it, or take {section}.api_key_env=null for an endpoint that "
                          "needs no key")
    return SecretStr(key)
