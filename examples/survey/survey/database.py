"""DATABASE_URL as an entry of DATABASES."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def from_url(url: str, schema: str = "") -> dict[str, Any]:
    """postgres://user:password@host:port/name?option=value; what it makes goes into `schema` if that is given."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError(f"DATABASE_URL must begin with postgres://, not {parts.scheme}://")
    options = dict(parse_qsl(parts.query))
    if schema:
        options["options"] = f"{options.get('options', '')} -c search_path={schema}".strip()
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
    }
