"""A service in this process, with one token of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from dure.service import commands
from dure.service.app import Service, Settings, create_app
from dure.service.identity import Grant, Principal
from dure.service.schemas import NewProject, NewToken
from tests.service.world import DOCUMENT

ROOT = Principal("root", (Grant("operator"),))
#: Name of a token → what it is for.
TOKENS: dict[str, dict[str, str]] = {
    "operator": {"user": "root", "role": "operator"},
    "auditor": {"user": "aud", "role": "auditor"},
    "agent": {"user": "agent", "role": "agent", "site": "hall"},
    "admin": {"user": "ann", "role": "member_admin", "member": "guest"},
    "lead": {"user": "lea", "role": "project_lead", "project": "guest/main"},
    "user": {"user": "uma", "role": "user", "project": "guest/main"},
    "user2": {"user": "udo", "role": "user", "project": "guest/main"},
    "member user": {"user": "mia", "role": "user", "member": "guest"},
    "other project": {"user": "uma", "role": "user", "project": "guest/side"},
    "other admin": {"user": "uma", "role": "member_admin", "member": "other"},
    "other user": {"user": "ole", "role": "user", "project": "other/main"},
}


class Running:
    """A service; `client(name)` calls it with that token."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self.service = Service(Settings(database or f"sqlite:///{folder / 'dure.db'}", folder))
        self.service.store.open()
        self.service.store.begin(DOCUMENT)
        self.service.open()
        for name in ("owner/main", "guest/main", "guest/side", "other/main"):
            member, _, project = name.partition("/")
            self.do(commands.make_project(NewProject(name=project, member=member), ROOT))
        self.tokens = {name: self.token(**form) for name, form in TOKENS.items()}
        self.app: FastAPI = create_app(self.service)

    def do(self, command: Any) -> Any:
        return self.service.writer.do(command, "service").result(30)

    def token(self, **form: Any) -> str:
        found: str = self.do(commands.make_token(NewToken(**form), None))[1]
        return found

    def headers(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}

    def client(self, name: str) -> TestClient:
        return TestClient(self.app, headers=self.headers(name), raise_server_exceptions=False)

    def close(self) -> None:
        self.service.close()
