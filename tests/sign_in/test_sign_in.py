"""People sign in with a real OpenID Connect provider: `dure login`, the console, and what is refused."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.service.processes import free_port

from dure.service.oidc import challenge_of

ROOT = Path(__file__).parents[2]
#: The provider's own environment (make idp).
PROVIDER_PYTHON = ROOT / ".venv-idp" / "bin" / "python"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VERIFIER = "v" * 64

pytestmark = pytest.mark.skipif(not PROVIDER_PYTHON.exists(), reason="no provider to sign in with (make idp)")


def until_it_answers(url: str, process: subprocess.Popen[bytes], timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        assert process.poll() is None, f"ended with {process.returncode}"
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"no answer from {url}")


@dataclass(frozen=True)
class World:
    """A service that people sign in to."""

    url: str
    folder: Path
    operator: str

    def cli(self, *args: str, given: str = "") -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "XDG_CONFIG_HOME": str(self.folder / "config"), "DURE_URL": "", "DURE_TOKEN": ""}
        return subprocess.run(
            [sys.executable, "-m", "dure.cli.main", *args], env=env, input=given, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sign-in")
    port, provider_port = free_port(), free_port()
    (folder / "secret").write_text("a secret of the test's\n")
    (folder / "oidc.yaml").write_text(
        f"issuer: http://127.0.0.1:{provider_port}\nclient_id: dure\nclient_secret_file: secret\n"
        "grants:\n- {group: operators, role: operator}\n- {group: vision, role: user, project: kaist/main}\n"
        "- {group: vision, role: user, project: kaist/not-made-yet}\n- {group: vision, role: member_admin, member: snu}\n"
    )
    env = {**os.environ, "XDG_CONFIG_HOME": str(folder / "service")}
    log = (folder / "log").open("wb")
    started = [
        subprocess.Popen([PROVIDER_PYTHON, ROOT / "tests/idp/provider.py", str(provider_port), f"http://127.0.0.1:{port}/login/callback"]),
        subprocess.Popen(
            [sys.executable, "-m", "dure.cli.main", "up", "--gpus", "1", "--port", str(port), "--data-dir", str(folder / "data"),
             "--oidc", str(folder / "oidc.yaml")], env=env, stdout=subprocess.DEVNULL, stderr=log,
        ),
    ]  # fmt: skip
    try:
        until_it_answers(f"http://127.0.0.1:{provider_port}/.well-known/openid-configuration", started[0])
        until_it_answers(f"http://127.0.0.1:{port}/readyz", started[1])
        yield World(f"http://127.0.0.1:{port}", folder, (folder / "data" / "operator.token").read_text().strip())
    finally:
        log.close()
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def visit(world: World, name: str, address: str = "", password: str = "") -> httpx.Response:
    """What a browser shows at the end of a person's sign-in: follows redirects and fills in the provider's forms."""
    with httpx.Client(follow_redirects=True, timeout=30) as browser:
        return _visit(browser, world, name, address, password)


def _visit(browser: httpx.Client, world: World, name: str, address: str, password: str) -> httpx.Response:
    page = browser.get(address or f"{world.url}/login/?challenge={challenge_of(VERIFIER)}")
    for _ in range(4):
        form = re.search(r"<form method=\"?post.*?</form>", page.text, re.DOTALL | re.IGNORECASE)
        if form is None or page.url.path.startswith("/login/callback"):
            return page
        fields = {
            html.unescape(key): html.unescape(value)
            for key, value in re.findall(r'<input[^>]*?name="([^"]+)"[^>]*?value="([^"]*)"', form.group(0))
        }
        fields |= {"login": name} if 'name="login"' in form.group(0) else {}
        fields |= {"password": password or name * 3} if 'name="password"' in form.group(0) else {}
        fields |= {"answer": "accept"} if 'name="answer"' in form.group(0) else {}
        page = browser.post(page.url, data=fields)
    return page


def code_of(page: httpx.Response) -> str:
    found = re.search(r"<pre>([^<]+)</pre>", page.text)
    assert found, page.text
    return found.group(1)


def redeem(world: World, code: str, verifier: str = VERIFIER) -> httpx.Response:
    return httpx.post(f"{world.url}/api/v1/login", json={"code": code, "verifier": verifier}, timeout=30)


def test_the_roles_are_those_of_the_providers_groups(world):
    made = redeem(world, code_of(visit(world, "ann")))
    assert made.status_code == 201
    bearer = {"Authorization": f"Bearer {made.json()['token']}"}
    who = httpx.get(f"{world.url}/api/v1/whoami", headers=bearer).json()
    assert (who["user"], [r["role"] for r in who["roles"]]) == ("ann", ["operator"])

    made = redeem(world, code_of(visit(world, "uma"))).json()
    bearer = {"Authorization": f"Bearer {made['token']}"}
    who = httpx.get(f"{world.url}/api/v1/whoami", headers=bearer).json()
    places = [(r["role"], r["member"], r["project"]) for r in who["roles"]]
    assert places == [("user", "kaist", "kaist/main"), ("member_admin", "snu", "")]
    spec = {"name": "j", "project": "kaist/main", "command": ["true"]}
    assert httpx.post(f"{world.url}/api/v1/jobs", json=spec, headers=bearer).status_code == 201
    spec["project"] = "postech/main"
    assert httpx.post(f"{world.url}/api/v1/jobs", json=spec, headers=bearer).status_code == 403
    assert httpx.post(f"{world.url}/api/v1/projects", json={"name": "new", "member": "snu"}, headers=bearer).status_code == 201


def test_who_is_in_no_group_has_no_role(world):
    page = visit(world, "ole")
    assert page.status_code == 403
    assert "no group that has a role" in page.text


def test_a_wrong_password_leads_nowhere(world):
    assert "<pre>" not in visit(world, "ann", password="wrong").text


def test_a_code_is_good_once_and_for_who_began(world):
    code = code_of(visit(world, "ann"))
    assert redeem(world, code, "w" * 64).status_code == 401
    assert redeem(world, code).status_code == 401  # the wrong verifier has used it up
    code = code_of(visit(world, "ann"))
    assert redeem(world, code).status_code == 201
    assert redeem(world, code).status_code == 401
    assert redeem(world, "made-up").status_code == 401


def test_an_answer_that_the_browser_did_not_ask_for_is_refused(world):
    page = httpx.get(f"{world.url}/login/callback?code=stolen&state=made-up")
    assert page.status_code == 400
    with httpx.Client(follow_redirects=False, timeout=30) as browser:
        browser.get(f"{world.url}/login/?challenge={challenge_of(VERIFIER)}")
        page = browser.get(f"{world.url}/login/callback?code=stolen&state=made-up")
    assert page.status_code == 400
    assert "<pre>" not in page.text


def test_login_and_logout_of_the_command_line(world):
    # The command shows the address, the person visits it, and gives the code back.
    env = {**os.environ, "XDG_CONFIG_HOME": str(world.folder / "config"), "DURE_URL": "", "DURE_TOKEN": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "dure.cli.main", "login", world.url, "--json"], env=env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr
    address = process.stderr.readline().split()[-1]
    out, err = process.communicate(code_of(visit(world, "uma", address)) + "\n", timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["user"] == "uma"
    who = json.loads(world.cli("whoami", "--json").stdout)
    assert who["user"] == "uma"
    assert json.loads(world.cli("token", "list", "--json").stdout)[-1]["user"] == "uma"
    kept = json.loads((world.folder / "config" / "dure" / "client.json").read_text())["token"]
    bearer = {"Authorization": f"Bearer {kept}"}
    assert httpx.get(f"{world.url}/api/v1/whoami", headers=bearer).status_code == 200
    assert world.cli("logout").returncode == 0
    after = world.cli("whoami")
    assert after.returncode == 2
    assert "401" in after.stderr or "token" in after.stderr
    assert httpx.get(f"{world.url}/api/v1/whoami", headers=bearer).status_code == 401


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_console(world):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(locale="en-US")
        page.goto(f"{world.url}/console/")
        page.get_by_role("button", name="Sign in with your organisation").click()
        page.locator("input[name=login]").fill("ann")
        page.keyboard.press("Enter")
        page.locator("input[name=password]").fill("annannann")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Alliance", exact=True)).to_be_visible(timeout=30_000)
        expect(page.get_by_text("ann", exact=True).first).to_be_visible()
        # Somebody else's code opens nothing in this browser.
        other = browser.new_context(locale="en-US").new_page()
        code = code_of(visit(world, "ann"))
        other.goto(f"{world.url}/console/sign-in?code={code}")
        expect(other.get_by_text("This token is unknown, expired or revoked.")).to_be_visible(timeout=30_000)
        browser.close()


def test_a_service_without_a_provider_says_so(world, tmp_path):
    bad = world.folder / "bad.yaml"
    bad.write_text("issuer: http://127.0.0.1:1\nclient_id: dure\ngrants:\n- {group: g, role: user}\n")
    answer = world.cli("serve", "--oidc", str(bad), "--data-dir", str(tmp_path))
    assert answer.returncode == 2
    assert "bad.yaml:4" in answer.stderr
    assert "user names a member or a project" in answer.stderr
