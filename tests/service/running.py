"""A service in this process that listens on a free port, with one token of every kind."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from tests.service.world import document_of_today

from dure.service import commands
from dure.service.app import Service, Settings, create_app
from dure.service.identity import Grant, Principal
from dure.service.schemas import NewProject, NewToken

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


class Served:
    """A service's application on a free port, in a thread."""

    def __init__(self, service: Service) -> None:
        config = uvicorn.Config(create_app(service), port=0, log_level="critical", access_log=False, timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


class Running:
    """A service of an alliance (by default the small one); `client(name)` calls it with that token."""

    def __init__(self, folder: Path, database: str = "", document: dict[str, Any] | None = None, **settings: Any) -> None:
        self.service = Service(Settings(database or f"sqlite:///{folder / 'dure.db'}", folder, **settings))
        self.service.store.open()
        self.service.store.begin(document or document_of_today())
        self.service.open()
        for name in ("owner/main", "guest/main", "guest/side", "other/main"):
            member, _, project = name.partition("/")
            self.do(commands.make_project(NewProject(name=project, member=member), ROOT))
        self.tokens = {name: self.token(**form) for name, form in TOKENS.items()}
        self._served = Served(self.service)
        self._served.__enter__()
        self.port = self._served.port
        self.url = f"http://127.0.0.1:{self.port}"
        self._clients: dict[str, httpx.Client] = {}

    def do(self, command: Any) -> Any:
        return self.service.writer.do(command, "service").result(120)

    def token(self, **form: Any) -> str:
        found: str = self.do(commands.make_token(NewToken(**form), None))[1]
        return found

    def headers(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}

    def client(self, name: str) -> httpx.Client:
        if name not in self._clients:
            headers = self.headers(name) if name != "nobody" else {}
            self._clients[name] = httpx.Client(base_url=self.url, headers=headers, timeout=60)
        return self._clients[name]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._served.__exit__()
        self.service.close()
