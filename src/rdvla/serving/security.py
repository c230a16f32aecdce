"""Who may connect: the key, TLS, and pages of other sites. Messages never hold the key."""

from __future__ import annotations

import hmac
import os
import ssl
from pathlib import Path

from rdvla.errors import ConfigError
from rdvla.serving.config import KEY_VARIABLE, ServeConfig

SCHEME = "Api-Key"  # as openpi's client sends it


def read_api_key(config: ServeConfig) -> str | None:
    """Return the key from the file that the configuration names, else from the environment; None: no key.

    Raises:
        ConfigError: the file cannot be read, or the key cannot be sent in a header.
    """
    path = config.key_path
    if path is None:
        found, origin = os.environ.get(KEY_VARIABLE), f"the environment variable {KEY_VARIABLE}"
        if found is None:
            return None
    else:
        origin = f"api_key_file {path}"
        try:
            found = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{origin} cannot be read: {error}") from None
    key = found.strip()
    if not key:
        raise ConfigError(f"{origin} holds no key: write one into it, such as of `openssl rand -hex 32`")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{origin}: a key consists of printable ASCII characters without spaces")
    return key


def is_authorised(header: str | None, key: str | None) -> bool:
    """Whether an Authorization header holds the key; the time this takes tells nothing about the key."""
    if key is None:
        return True
    scheme, _, given = (header or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), key.encode())
    return scheme.lower() == SCHEME.lower() and same


def tls_context(config: ServeConfig) -> ssl.SSLContext | None:
    """Return the TLS context of the configured certificate; None if there is none.

    Raises:
        ConfigError: a file cannot be read, or certificate and key do not belong together.
    """
    if not config.tls_certificate:
        return None
    for option in ("tls_certificate", "tls_key"):
        path = Path(getattr(config, option))
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{option} {path} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password would be asked for at the terminal, where nobody may sit.
        context.load_cert_chain(config.tls_certificate, config.tls_key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"tls_certificate {config.tls_certificate} with tls_key {config.tls_key}: {error}. Both must be "
            "PEM files that belong together, the key without a password"
        ) from None
    return context
