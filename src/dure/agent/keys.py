"""The key by which the service knows an agent: made here, given for a one-time token, renewed before it ends.

It is on disk before the service hears of it: whoever dies in between, or whatever answer is lost, the same is asked again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import structlog

from dure.agent.contact import Backoff
from dure.agent.service import NoAnswerError, RefusedError
from dure.executors.clock import Clock
from dure.model.errors import DureError, InputError

#: So often is looked whether it is time for another key.
LOOK_EVERY_S = 3600.0

_log = structlog.get_logger(__name__)


class KeyService(Protocol):
    """What keeps keys."""

    async def enrol(self, agent_id: str, key: str, token: str) -> int:
        """Give a one-time token for a key; when that ends, epoch ms."""
        ...

    async def renew(self, key: str) -> int:
        """Give the key in use for another; when that ends, epoch ms."""
        ...

    def use(self, key: str) -> None:
        """Come with this key from now on."""
        ...


class KeyUnwritableError(DureError):
    """The key could not be kept: the disk is full, or gone."""


@dataclass(frozen=True)
class Keys:
    """What is kept of keys.

    Attributes
    ----------
    key, made_ms, expires_ms : str, int, int
        The one that the service knows, empty: none; when it was made and ends, epoch ms.
    enrolled_with : str
        Digest of the one-time token that it goes back to.
    pending, pending_with : str
        One that the service may know, as the answer has not come yet, and the digest of the token that it was given for;
        without that it is to replace the one in use.
    """

    key: str = ""
    made_ms: int = 0
    expires_ms: int = 0
    enrolled_with: str = ""
    pending: str = ""
    pending_with: str = ""


class KeyFile:
    """Keys on disk, for their owner's eyes only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Keys:
        """What is there.

        Raises
        ------
        InputError
            It cannot be read.
        """
        try:
            return Keys(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return Keys()
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"this is no agent's key: {error}", str(self._path)) from None

    def write(self, keys: Keys) -> None:
        """Keep them, durably, or what was there before.

        Raises
        ------
        KeyUnwritableError
            They are not kept.
        """
        part = self._path.with_name(f"{self._path.name}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(asdict(keys), file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as error:
            raise KeyUnwritableError(f"the agent's key: {error}") from error


def _new_key() -> str:
    return "dure_" + secrets.token_urlsafe(32)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Keyring:
    """Gets the agent its key and keeps it good.

    Parameters
    ----------
    enrol_token : str
        One-time token; empty: none was given. One that the key in use goes back to is not used again.
    """

    def __init__(self, file: KeyFile, service: KeyService, agent_id: str, enrol_token: str, clock: Clock, backoff: Backoff) -> None:
        self._file, self._service, self._agent_id = file, service, agent_id
        self._token, self._clock, self._backoff = enrol_token, clock, backoff
        self._keys = file.read()

    async def take(self) -> None:
        """Come with a key from now on: the one that is kept, or one that is enrolled now, however long that takes.

        Raises
        ------
        RefusedError
            The service does not take the one-time token, and there is no key from before.
        InputError
            There is neither a key nor a token.
        KeyUnwritableError
            A new key cannot be kept.
        """
        if self._token and _digest(self._token) != self._keys.enrolled_with:
            await self._enrol()
        elif not self._keys.key and self._keys.pending:
            # The answer was lost, and the token is gone: the service may know the key all the same.
            self._keep(self._keys.pending, 0, self._keys.pending_with)
        elif not self._keys.key:
            raise InputError("there is no key here yet: give a token of `dure site enrol`", field="DURE_ENROL_TOKEN")
        self._service.use(self._keys.key)

    async def _enrol(self) -> None:
        token = _digest(self._token)
        if self._keys.pending_with != token:
            self._write(replace(self._keys, pending=_new_key(), pending_with=token))
        while True:
            try:
                expires_ms = await self._service.enrol(self._agent_id, self._keys.pending, self._token)
            except NoAnswerError as error:
                pause_s = max(self._backoff.pause_s(), error.retry_s)
                _log.warning("not enrolled yet", error=str(error), pause_s=round(pause_s, 2))
                await asyncio.sleep(pause_s)
            except RefusedError as error:
                if not self._keys.key:
                    raise
                _log.warning("not enrolled anew: the key from before is used", error=str(error))
                return
            else:
                self._keep(self._keys.pending, expires_ms, token)
                _log.info("enrolled", agent=self._agent_id)
                return

    async def keep_good(self) -> None:
        """Replace the key when half of its time is over; for ever."""
        while True:
            keys = self._keys
            if keys.expires_ms and self._clock.wall_ms() > (keys.made_ms + keys.expires_ms) // 2:
                try:
                    await self._renew()
                except (NoAnswerError, RefusedError, KeyUnwritableError) as error:
                    _log.warning("key not renewed", error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _renew(self) -> None:
        if not self._keys.pending or self._keys.pending_with:
            self._write(replace(self._keys, pending=_new_key(), pending_with=""))
        expires_ms = await self._service.renew(self._keys.pending)
        self._keep(self._keys.pending, expires_ms, self._keys.enrolled_with)
        self._service.use(self._keys.key)
        _log.info("key renewed")

    def _keep(self, key: str, expires_ms: int, enrolled_with: str) -> None:
        self._write(Keys(key, self._clock.wall_ms(), expires_ms, enrolled_with))

    def _write(self, keys: Keys) -> None:
        self._file.write(keys)
        self._keys = keys
