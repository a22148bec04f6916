"""The console in a real browser, on a really running service with real jobs."""

from __future__ import annotations

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
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dure.examples import example_path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

#: Starting may compile kernels first.
START_S = 300
#: Expected starts are up to ten seconds old.
FORESEEN_MS = 20_000
#: What each page shows, by the navigation's names.
PAGES = {"/": ("Alliance", "연합"), "/queue": ("Queue", "대기열"), "/nodes": ("Nodes and agents", "노드와 에이전트"),
         "/usage": ("Usage", "사용량")}  # fmt: skip
#: Counts once a half second, then waits to be told to end; what it prints is a log with progress.
COUNT = (
    'for i in $(seq 1 600); do echo "count $i"; '
    'echo "dure-progress: {\\"step\\": $i, \\"steps\\": 600, \\"loss\\": 0.$((1000 - i))}"; sleep 0.5; done'
)


@dataclass(frozen=True)
class Live:
    """A running service."""

    url: str
    token: str

    def call(self, method: str, path: str, body: object = None, token: str = "") -> httpx.Response:
        answer = httpx.request(
            method, f"{self.url}/api/v1{path}", json=body, headers={"Authorization": f"Bearer {token or self.token}"}, timeout=30
        )
        answer.raise_for_status()
        return answer

    def submit(self, name: str, gpus: int, command: str, project: str) -> str:
        spec = {"name": name, "project": project, "command": ["sh", "-c", command], "resources": {"gpus": gpus}, "time_limit": "20m"}
        found: str = self.call("POST", "/jobs", spec).json()["job_id"]
        return found

    def token_of(self, user: str, **grant: str) -> tuple[str, str]:
        made = self.call("POST", "/tokens", {"user": user, **grant}).json()
        return made["token_id"], made["token"]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
    command = [sys.executable, "-m", "dure.cli.main", "up", "--port", "0", "--data-dir", str(folder / "data"), "--gpus", "4",
               "--alliance", str(example_path("village"))]  # fmt: skip
    with (folder / "err").open("w") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, env=environment, cwd=folder)
        try:
            said = ""
            deadline = time.monotonic() + START_S
            while "Dure is up" not in said and time.monotonic() < deadline:
                line = process.stdout.readline()
                assert line, (folder / "err").read_text()
                said += line
            token = re.search(r"shown once\): (\S+)", said)[1]
            found = Live(re.search(r"is up: (\S+)", said)[1], token)
            while not found.call("GET", "/nodes").json():
                assert time.monotonic() < deadline, "the agent was not heard"
                time.sleep(0.2)
            yield found
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            process.stdout.close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@dataclass
class Window:
    """A page, and what went wrong in it."""

    page: Page
    live: Live
    complaints: list[str]

    def open(self, path: str) -> None:
        self.page.goto(f"{self.live.url}/console{path}")
        self.page.wait_for_load_state("networkidle")

    def sign_in(self, token: str) -> None:
        self.page.get_by_label("Token").or_(self.page.get_by_label("토큰")).fill(token)
        self.page.keyboard.press("Enter")


@pytest.fixture
def new_window(live, browser: Browser):
    contexts = []

    def make(locale: str = "en-US", theme: str = "light", width: int = 1360) -> Window:
        context = browser.new_context(
            locale=locale, color_scheme=theme, timezone_id="Asia/Seoul", viewport={"width": width, "height": 900}
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        page, complaints = context.new_page(), []
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("response", lambda answer: complaints.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
        page.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith((live.url, "data:")) else None)
        return Window(page, live, complaints)

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def projects(live):
    """Projects of two members: of the one that owns this machine, and of another."""
    owner = live.call("GET", "/nodes").json()[0]["owner"]
    other = next(p["member"] for p in live.call("GET", "/projects").json() if p["member"] != owner)
    return f"{owner}/main", f"{other}/main"


@pytest.fixture
def running_job(live, projects):
    job = live.submit("counting", 4, COUNT, projects[0])
    yield job
    live.call("POST", f"/jobs/{job}/cancel")
    deadline = time.monotonic() + 30
    while live.call("GET", f"/jobs/{job}").json()["state"] != "ENDED":
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_nothing_is_shown_without_a_token(live, new_window, projects):
    window = new_window()
    for path in (*PAGES, "/jobs/1"):
        answer = httpx.get(f"{live.url}/console{path}")
        assert answer.status_code == 307
        assert answer.headers["location"].startswith("/console/sign-in?to=")
    window.page.goto(live.url)
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Sign in")
    window.sign_in("dure_nonsense")
    expect(window.page.get_by_text("This token is unknown, expired or revoked.")).to_be_visible()
    site = live.call("GET", "/nodes").json()[0]["site"]
    window.sign_in(live.token_of("robot", role="agent", site=site)[1])
    expect(window.page.get_by_text("An agent's token opens no console.")).to_be_visible()
    window.open("/queue")
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert window.complaints == []


def test_a_job_is_followed_from_the_queue_to_its_end(live, new_window, running_job, projects):
    window = new_window()
    page = window.page
    window.open("/queue")
    window.sign_in(live.token)
    row = page.get_by_role("row").filter(has_text="counting")
    expect(row).to_contain_text("running")
    waiting = live.submit("patient", 4, "true", projects[0])
    behind = page.get_by_role("row").filter(has_text="patient")
    expect(behind).to_contain_text("waiting")
    expect(behind).to_contain_text(re.compile("share in use|GPUs busy|another job stands before it"))
    page.get_by_label("Name, id or user").fill("COUNT")
    expect(behind).to_have_count(0)
    row.get_by_role("link", name="counting").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("counting")
    log = page.get_by_role("log")
    expect(log).to_contain_text("count 3")
    seen = int(re.findall(r"count (\d+)", log.inner_text())[-1])
    expect(log).to_contain_text(f"count {seen + 4}")
    expect(page.locator(".dure-timeline")).to_contain_text("attempt 1: started")
    expect(page.get_by_role("img", name="Progress").locator("svg")).to_be_visible()
    expect(page.get_by_text(re.compile(r"step \d+, steps 600, loss 0\.\d+"))).to_be_visible()
    page.get_by_role("button", name="Cancel job").click()
    page.get_by_role("button", name="Keep it").click()
    page.wait_for_timeout(1500)
    assert live.call("GET", f"/jobs/{running_job}").json()["state"] == "RUNNING"
    page.get_by_role("button", name="Cancel job").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
    expect(page.locator(".dure-head .dure-state")).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Cancel job")).to_have_count(0)
    assert live.call("GET", f"/jobs/{running_job}").json()["outcome"] == "cancelled"
    window.open(f"/jobs/{waiting}")
    expect(page.locator(".dure-head .dure-state")).to_have_text("succeeded")
    assert window.complaints == []


def test_a_job_that_waits_tells_why(live, new_window, running_job, projects):
    window = new_window()
    waiting = live.submit("patient", 4, "true", projects[0])
    window.open(f"/jobs/{waiting}")
    window.sign_in(live.token)
    box = window.page.locator(".dure-explain")
    expect(box).to_contain_text("Why it waits")
    expect(box).to_contain_text(re.compile(r"needs 4 GPUs and 0 are free"))
    expect(box).to_contain_text(re.compile(rf"In use by: {projects[0].split('/')[0]} 4\."))
    expect(box).to_contain_text(re.compile(r"Expected start: .* \(in (19|20) minutes\)"), timeout=FORESEEN_MS)
    live.call("POST", f"/jobs/{waiting}/cancel")
    expect(box).to_be_hidden()
    assert window.complaints == []


def test_the_alliance_changes_while_it_is_looked_at(live, new_window, projects):
    window = new_window()
    window.open("/")
    window.sign_in(live.token)
    used = window.page.locator(".dure-figure").filter(has_text="GPUs in use").locator(".value")
    expect(used).to_have_text("0")
    expect(window.page.locator(".dure-figure").filter(has_text="GPUs online").locator(".value")).to_have_text("4")
    job = live.submit("three", 3, "sleep 60", projects[0])
    expect(used).to_have_text("3")
    owner = window.page.get_by_role("row").filter(has_text=projects[0].split("/")[0]).first
    expect(owner.get_by_role("cell").nth(4)).to_have_text("3")
    live.call("POST", f"/jobs/{job}/cancel")
    expect(used).to_have_text("0")
    window.page.get_by_text("Agreed shares").click()
    expect(window.page.get_by_role("img", name="Use, lending and borrowing").locator("svg")).to_contain_text("share agreed")
    assert window.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_page_in_both_languages_and_themes(live, new_window, running_job, language, theme):
    window = new_window({"en": "en-US", "ko": "ko-KR"}[language], theme)
    page = window.page
    window.open("/")
    window.sign_in(live.token)
    for path, titles in PAGES.items():
        expect(page.locator("nav a[aria-current=page]")).to_have_count(1)
        page.get_by_role("navigation").get_by_role("link", name=titles[language == "ko"]).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(titles[language == "ko"])
        expect(page.get_by_role("row").nth(1)).to_be_visible()
        _check_page(page, language, theme, path)
    window.open(f"/jobs/{running_job}")
    expect(page.get_by_role("log")).to_contain_text("count 2")
    _check_page(page, language, theme, "job")
    assert window.complaints == []


#: Elements with text of their own whose contrast against what is behind them is under 4.5 (3 where the text is large).
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (el) => el ? over(rgba(getComputedStyle(el).backgroundColor), behind(el.parentElement)) : [255, 255, 255];
  return [...document.querySelectorAll("body *")].filter((el) => el.checkVisibility({opacityProperty: true, visibilityProperty: true}) && !el.closest("[disabled], svg, i") &&
    [...el.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).map((el) => {
      const style = getComputedStyle(el), back = behind(el), [a, b] = [light(over(rgba(style.color), back)), light(back)];
      const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      return [el.textContent.trim().slice(0, 40), ratio, parseFloat(style.fontSize) >= 24 ? 3 : 4.5];
    }).filter(([, ratio, least]) => ratio < least);
}"""

#: Things that one can use and that have no name.
NAMELESS = """() => [...document.querySelectorAll("a, button, input, [role=img], [role=log], [tabindex='0']")]
  .filter((el) => el.offsetParent && !(el.getAttribute("aria-label") || el.textContent.trim() || (el.labels && el.labels.length) ||
    el.closest("label") || el.querySelector("svg"))).map((el) => el.outerHTML.slice(0, 160))"""


def _check_page(page: Page, language: str, theme: str, what: str) -> None:
    assert page.evaluate("document.documentElement.lang") == {"en": "en-US", "ko": "ko-KR"}[language]
    assert page.locator("h1").count() == 1
    assert ("body--dark" in page.locator("body").get_attribute("class")) == (theme == "dark")
    assert page.evaluate(CONTRAST) == [], what
    assert page.evaluate(NAMELESS) == [], what
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, what
    text = page.locator("body").inner_text()
    assert bool(re.search("[가-힣]{2}", text.replace("두레", "").replace("한국어", ""))) == (language == "ko"), what
    folder = os.environ.get("DURE_SHOTS")
    if folder:
        name = {"/": "alliance"}.get(what, what.strip("/"))
        page.screenshot(path=Path(folder) / f"{name}-{language}-{theme}.png", full_page=True)


@pytest.mark.parametrize("width", [390, 800, 1920])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(live, new_window, running_job, width):
    window = new_window(width=width)
    window.open("/")
    window.sign_in(live.token)
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Alliance")
    for path in (*PAGES, f"/jobs/{running_job}"):
        window.open(path)
        assert window.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path


def test_switches_are_kept(live, new_window):
    window = new_window()
    page = window.page
    window.open("/queue")
    window.sign_in(live.token)
    expect(page.get_by_role("heading", level=1)).to_have_text("Queue")
    page.get_by_role("button", name="한국어").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("대기열")
    page.get_by_role("button", name="어두운 화면").click()
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    window.open("/nodes")
    expect(page.get_by_role("heading", level=1)).to_have_text("노드와 에이전트")
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    assert window.complaints == []


def test_a_reader_sees_what_the_api_would_show_and_no_more(live, new_window, running_job, projects):
    window = new_window()
    page = window.page
    token_id, token = live.token_of("guest", role="user", project=projects[1])
    own = live.submit("own-job", 1, "true", projects[1])
    window.open("/queue")
    window.sign_in(token)
    state = page.get_by_label("State", exact=True)
    expect(page.get_by_role("heading", level=1)).to_have_text("Queue")
    state.click()
    page.get_by_role("option", name="all").click()
    expect(page.get_by_role("row").filter(has_text="own-job")).to_be_visible()
    assert "counting" not in page.get_by_role("main").inner_text()
    window.open(f"/jobs/{own}")
    expect(page.get_by_role("heading", level=1)).to_have_text("own-job")
    window.open(f"/jobs/{running_job}")
    expect(page.get_by_role("status")).to_have_text("There is none that you may see.")
    assert "counting" not in page.content()
    assert "count 1" not in page.content()
    window.open("/nodes")
    expect(page.get_by_text("Agents are shown to operators")).to_be_visible()
    assert live.call("GET", "/agents").json()[0]["agent_id"] not in page.content()
    window.open("/usage")
    expect(page.get_by_role("heading", level=1)).to_have_text("Usage")
    assert projects[0].split("/")[0] not in page.get_by_role("table").inner_text()
    window.open("/")
    expect(page.get_by_role("row").nth(1)).to_be_visible()
    live.call("DELETE", f"/tokens/{token_id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert window.complaints == []


def test_who_may_only_look_cannot_cancel(live, new_window, running_job):
    window = new_window()
    window.open(f"/jobs/{running_job}")
    window.sign_in(live.token_of("looker", role="auditor")[1])
    expect(window.page.get_by_role("log")).to_contain_text("count 1")
    expect(window.page.get_by_role("button", name="Cancel job")).to_have_count(0)


def test_signing_out_ends_other_windows_of_the_reader(live, new_window):
    window = new_window()
    window.open("/")
    window.sign_in(live.token)
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Alliance")
    other = window.page.context.new_page()
    other.goto(f"{live.url}/console/queue")
    expect(other.get_by_role("heading", level=1)).to_have_text("Queue")
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Sign in")
