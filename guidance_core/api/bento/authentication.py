"""Who may ask: API keys, sent as OpenAI's clients send theirs (``Authorization: Bearer``, RFC 6750)."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from guidance_core.api.dialects import failure_at
from guidance_core.config import BadSettings, ServerSettings, as_api_key
from guidance_core.errors import Unauthenticated

_log = logging.getLogger(__name__)

OPEN = frozenset(
    {
        "/",
        "/docs.json",
        "/health",
        "/health_check",
        "/healthz",
        "/livez",
        "/metrics",
        "/readyz",
        "/schema.json",
        "/tgi/health",
        "/v1/health/live",
        "/v1/health/ready",
        "/v2/health/live",
        "/v2/health/ready",
    }
)
"""Paths that need no key: what orchestrators and Prometheus ask, which carry none, and the documents."""

_OPEN_FOLDER = "/static_content/"  # the files of the Swagger page


class ApiKeys:
    """The keys that are good: those of the settings, and of a file that may change while the service runs."""

    def __init__(self, settings: ServerSettings) -> None:
        """Read the file, if one is named.

        Raises:
            BadSettings: it cannot be read, or holds something that is no key, or nothing.
        """
        self._fixed = _digests(key.get_secret_value() for key in settings.api_keys)
        self._file = None if settings.api_key_file is None else Path(settings.api_key_file)
        self._seen: object = None
        self._from_file: list[bytes] = []
        if self._file is not None and (problem := self._read_changed(self._file)) is not None:
            raise BadSettings(f"{self._file}: {problem} The setting server.api_key_file names it.")

    def admit(self, key: str) -> bool:
        """Whether a key is good. How long that takes does not depend on which, nor on how much of it is right."""
        if self._file is not None and (problem := self._read_changed(self._file)) is not None:
            _log.error("%s: %s The keys it had go on being good.", self._file, problem)
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        return sum(hmac.compare_digest(digest, known) for known in (*self._fixed, *self._from_file)) > 0

    def _read_changed(self, file: Path) -> str | None:
        """Take the keys of a changed file. What keeps them from being read changes nothing, and is said once."""
        version: object
        try:
            version = _version(file)
        except OSError as error:
            version = str(error)
        if version == self._seen:
            return None
        self._seen = version
        try:
            keys = _digests(_read(file))
        except OSError as error:
            return f"{error.strerror}."
        except ValueError as error:
            return str(error)
        if self._from_file:
            _log.info("%s has changed: %d keys are good.", file, len(self._fixed) + len(keys))
        self._from_file = keys
        return None


class ApiKeyMiddleware:
    """Answers 401, in the shape of the dialect that was spoken to, where a request has no good key."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        """Wrap an application."""
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or not needs_key(scope["path"]):
            await self.app(scope, receive, send)
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            error = Unauthenticated("An API key is needed: send it in the header 'Authorization: Bearer <key>'.")
        elif not self.keys.admit(key.strip()):
            error = Unauthenticated("This service does not know the API key that was sent.")
        else:
            await self.app(scope, receive, send)
            return
        response = failure_at(scope["path"], error)
        response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)


def needs_key(path: str) -> bool:
    """Whether a path is one that only those with a key may ask, where there are keys."""
    return path not in OPEN and not path.startswith(_OPEN_FOLDER)


def _version(file: Path) -> tuple[int, int, int]:
    """What changes when the file does; Kubernetes replaces the files of a mounted secret by others."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(file: Path) -> list[str]:
    """The keys of a file: one a line; empty lines and those that begin with # are none."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    keys = [as_api_key(line) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError("it holds no key.")
    return keys


def _digests(keys: Iterable[str]) -> list[bytes]:
    return [sha256(key.encode()).digest() for key in keys]
