"""Where the service is and who is asking: ``DURE_URL`` and ``DURE_TOKEN``, or the file that `dure up` leaves."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from dure.model.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Address of the service and the caller's token (empty: none).

    Attributes
    ----------
    url : str
        Several, of which one leads: parted by commas.
    ca_file : str
        Certificate authorities beside the system's, PEM; default: ``DURE_CA_FILE``.
    is_insecure : bool
        Whether the token may go to another machine unencrypted; default: whether ``DURE_INSECURE`` is 1.
    """

    url: str
    token: str = ""
    ca_file: str = field(default_factory=lambda: os.environ.get("DURE_CA_FILE", ""))
    is_insecure: bool = field(default_factory=lambda: os.environ.get("DURE_INSECURE", "") == "1")

    @property
    def urls(self) -> list[str]:
        """The addresses."""
        return [part.strip() for part in self.url.split(",") if part.strip()]

    def is_same_place(self, other: Settings) -> bool:
        """Whether both name the same addresses."""
        return [url.rstrip("/") for url in self.urls] == [url.rstrip("/") for url in other.urls]


def settings_path() -> Path:
    """``~/.config/dure/client.json``, or its place under ``XDG_CONFIG_HOME``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "dure" / "client.json"


def load_settings() -> Settings:
    """The environment's, and what it does not say from the file. The file's token is for the file's address only.

    Raises
    ------
    InputError
        Neither names an address, it is none, or the file is broken.
    """
    url, token = os.environ.get("DURE_URL", ""), os.environ.get("DURE_TOKEN", "")
    if not url or not token:
        kept = kept_settings()
        if kept and (not url or Settings(url).is_same_place(kept)):
            url, token = kept.url, token or kept.token
    if not url:
        raise InputError(f"no service is named: set DURE_URL, or start one with `dure up`; {settings_path()} is absent")
    found = Settings(url, token)
    for address in found.urls or [url]:
        if not address.startswith(("http://", "https://")):
            raise InputError(f"must start with http:// or https://, not {address!r}", field="DURE_URL")
    return found


def kept_settings() -> Settings | None:
    """What the file says; None: there is none.

    Raises
    ------
    InputError
        The file is broken.
    """
    return _read(settings_path())


def save_settings(settings: Settings) -> Path:
    """Write the file, readable by its owner only; gives its path."""
    path = settings_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".client.{os.getpid()}.json")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"url": settings.url, "token": settings.token}, file)
    part.replace(path)
    return path


def _read(path: Path) -> Settings | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", str(path)) from None
    try:
        found = json.loads(text)
        return Settings(str(found["url"]), str(found.get("token", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError('must be {"url": …, "token": …}', str(path)) from None
