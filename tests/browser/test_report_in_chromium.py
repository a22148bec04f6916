"""The report in a real browser, offline: it draws everything, complains of nothing, fetches nothing."""

from __future__ import annotations

import html
import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from dure.twin.report import write_report

synthetic_result = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_result.py"))["synthetic_result"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

#: In Chromium's log of its network, a request that a page from a file made; the browser's own say otherwise.
PAGE_INITIATED = '"initiator":"null"'

#: Chromium's windows are no narrower; below it a page is opened in a frame.
WINDOW_WIDTH_MIN = 500

#: Put first into the page: gathers complaints and requests, and writes down what was drawn.
PROBE = """<script>
addEventListener("message", (event) => document.documentElement.setAttribute("data-seen", event.data));
const seen = {errors: [], refused: [], requests: []};
addEventListener("error", (event) => seen.errors.push(String(event.message || event.target)), true);
addEventListener("unhandledrejection", (event) => seen.errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) =>
  seen.refused.push(event.blockedURI + " " + event.violatedDirective));
for (const level of ["error", "warn"]) console[level] = (...words) => seen.errors.push(words.join(" "));
addEventListener("load", () => setTimeout(() => {
  seen.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  const plots = (test) => [...document.querySelectorAll(".plot")].filter(test).map((box) => box.id);
  seen.drawn = plots((box) => box.querySelector("svg.main-svg"));
  seen.shown = plots((box) => box.offsetParent);
  seen.wide = plots((box) => box.offsetParent && box.scrollWidth > box.clientWidth + 1);
  seen.width = innerWidth;
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.lang = document.documentElement.lang;
  seen.theme = document.documentElement.dataset.theme;
  seen.heading = document.querySelector("#sec_wait h2").innerText;
  seen.title = document.querySelector(".plot text.xtitle")?.textContent;
  ACT
  parent.postMessage(JSON.stringify(seen), "*");
}, 3000));
</script>"""


def opened(path, tmp_path, query="", width=1280, act=""):
    """Open the page in Chromium with a probe; what the probe saw."""
    text = path.read_text("utf-8").replace("<head>", "<head>" + PROBE.replace("ACT", act), 1)
    probed = tmp_path / "probed.html"
    probed.write_text(text, encoding="utf-8")
    address = f"{probed.as_uri()}?{query}"
    if width < WINDOW_WIDTH_MIN:
        framed = tmp_path / "framed.html"
        receive = "document.documentElement.setAttribute('data-seen', event.data)"
        framed.write_text(
            f"<script>addEventListener('message', (event) => {receive})</script>"
            f'<iframe src="{address}" style="width:{width}px;height:900px;border:0"></iframe>'
        )
        address = framed.as_uri()
    net_log = tmp_path / "net.json"
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={net_log}",
            f"--window-size={width},900",
            "--virtual-time-budget=15000", "--dump-dom", address,
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    match = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert match, f"the page never finished: {done.stderr[-500:]}"
    return json.loads(html.unescape(match.group(1))), net_log.read_text()


def test_the_probe_notices_a_request_and_the_policy_refuses_it(one, tmp_path):
    text = one.read_text("utf-8").replace("</main>", '<img alt="" src="http://127.0.0.1:9/x.png"></main>')
    tampered = tmp_path / "tampered.html"
    tampered.write_text(text, encoding="utf-8")
    seen, net_log = opened(tampered, tmp_path)
    assert seen["refused"] == ["http://127.0.0.1:9/x.png img-src"]
    assert PAGE_INITIATED not in net_log
    tampered.write_text(text.replace("Content-Security-Policy", "nothing"), encoding="utf-8")
    seen, net_log = opened(tampered, tmp_path)
    assert seen["requests"] == ["http://127.0.0.1:9/x.png"]
    assert PAGE_INITIATED in net_log


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    result = synthetic_result(num_jobs=2_000, num_members=20, num_samples=200)
    return write_report([result], tmp_path_factory.mktemp("one") / "report.html", "One run")


def test_it_opens_offline_without_complaint_or_request_and_draws_every_plot(one, tmp_path):
    seen, net_log = opened(one, tmp_path)
    assert seen["errors"] == []
    assert seen["refused"] == []
    assert seen["requests"] == []
    assert len(seen["drawn"]) == 13
    assert seen["drawn"] == seen["shown"]
    assert PAGE_INITIATED not in net_log


def test_it_reads_in_korean_and_in_the_dark(one, tmp_path):
    seen, _ = opened(one, tmp_path, "lang=ko&theme=dark")
    assert (seen["lang"], seen["theme"], seen["heading"]) == ("ko", "dark", "대기 시간")
    assert "시작부터" in seen["title"]
    english, _ = opened(one, tmp_path, "lang=en&theme=light")
    assert (english["lang"], english["heading"]) == ("en", "Waiting")
    assert "from the start" in english["title"]


@pytest.mark.parametrize("width", [400, 700, 1600])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(one, tmp_path, width):
    seen, _ = opened(one, tmp_path, width=width)
    assert seen["width"] == width
    assert seen["overflow"] <= 0
    assert seen["wide"] == []


def test_switches_work(one, tmp_path):
    act = """
    document.querySelector('[data-value="ko"]').click();
    document.getElementById("theme").click();
    const rows = () =>
      [...document.querySelectorAll(".sortable tbody tr")].map((row) => +row.cells[2].dataset.v);
    document.querySelectorAll(".sortable thead button")[2].click();
    seen.down = rows();
    document.querySelectorAll(".sortable thead button")[2].click();
    seen.up = rows();
    seen.after = [document.documentElement.lang, document.documentElement.dataset.theme];
    """
    seen, _ = opened(one, tmp_path, "lang=en&theme=light", act=act)
    assert seen["after"] == ["ko", "dark"]
    assert seen["down"] == sorted(seen["down"], reverse=True)
    assert seen["up"] == sorted(seen["up"])
    assert seen["up"] != seen["down"]


def test_each_of_several_runs_can_be_shown(tmp_path):
    results = [
        synthetic_result(num_jobs=500, num_members=5, num_samples=60, seed=seed, policy=policy)
        for policy in ("fifo", "dure")
        for seed in (1, 2)
    ]
    path = write_report(results, tmp_path / "many.html", "Two policies")
    act = """
    const picker = document.getElementById("run");
    picker.value = "1";
    picker.dispatchEvent(new Event("change"));
    seen.after = plots((box) => box.offsetParent);
    seen.target = document.getElementById("sec_use").closest(".run").dataset.run;
    """
    seen, _ = opened(path, tmp_path, act=act)
    assert seen["errors"] == []
    assert not any(key.startswith("run1-") for key in seen["shown"])
    assert "run1-use" in seen["after"]
    assert not any(key.startswith("run0-") for key in seen["after"])
    assert seen["target"] == "1"
