"""Reading: from the read models and the live state to the API's answers. Called by routes and by the console alike."""

from __future__ import annotations

import json
import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np

from dure.core.explain import Explainer, Explanation, NotWaitingError
from dure.core.live_job import LiveJob
from dure.model.jobs import Trace, make_jobs
from dure.policy.kernels import layout as k
from dure.service.identity import Principal
from dure.service.schemas import (
    AgentView,
    AttemptView,
    Endpoint,
    ExplanationForm,
    JobDetail,
    JobList,
    JobView,
    MemberView,
    NodeView,
    SiteView,
    TimelineEntry,
    Usage,
    UsageRow,
)
from dure.service.writer import Writer
from dure.store.store import Store
from dure.twin.foresight import expected_starts
from dure.twin.loop import LOOK_MS
from dure.twin.replay import make_world

#: Words for the states of a node, by the kernels' numbers.
_NODE_STATES: tuple[Any, ...] = ("up", "down", "quarantined", "spare", "offline", "silent")
_JOB_IN_TEXT = re.compile(r"\bjob ([0-9a-z_]+)")
#: So old may be what lists say of why jobs wait.
REASONS_S = 10.0
#: An agent not heard for so long is not connected.
SILENT_MS = 60_000


def iso(ms: int | None) -> str | None:
    """Epoch ms as ISO 8601 in UTC; None stays None."""
    return None if ms is None or ms < 0 else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def _at(ms: int) -> str:
    return iso(ms) or ""


class Foresight:
    """Reasons and expected starts of the jobs that wait, from the twin run on the live state; kept until it changes."""

    def __init__(self, writer: Writer, clock_s: Callable[[], float]) -> None:
        self._writer, self._clock_s = writer, clock_s
        self._seq, self._made_s = -1, -1e9
        self._starts: dict[str, int] = {}
        self._foreseeing = threading.Lock()
        self._explainer: Explainer | None = None
        self._explained_seq = -1
        #: Class of jobs → why its first one waits, and when that was worked out.
        self._reason_of: dict[int, tuple[str, float]] = {}
        self._reasoned_of: object = None

    def explain(self, job_id: str) -> Explanation | None:
        """Why a job waits; None: it does not, or the policy has not seen it."""
        alliance = self._writer.alliance
        with self._writer.lock:
            job = alliance.jobs.get(job_id)
            if job is None or job.row < 0:
                return None
            if self._explainer is None or self._explained_seq != self._writer.seq:
                self._explainer = Explainer(alliance.policy_core.built, _Names(alliance), alliance.closed_nodes(), alliance.withheld_nodes())
                self._explained_seq = self._writer.seq
            try:
                return self._explainer.explain(job.row)
            except NotWaitingError:
                return None

    def reasons(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Why each of some jobs waits, as lists show it: what is said of jobs of one kind may be some seconds old."""
        out: dict[str, str] = {}
        if not job_ids:
            return out
        with self._writer.lock:
            alliance = self._writer.alliance
            if self._reasoned_of is not alliance:
                self._reason_of, self._reasoned_of = {}, alliance
            explainer = Explainer(alliance.policy_core.built, closed=alliance.closed_nodes(), withheld=alliance.withheld_nodes())
            for job_id in job_ids:
                job = alliance.jobs.get(job_id)
                if job is None or job.row < 0:
                    out[job_id] = _before_the_policy(job)
                else:
                    with suppress(NotWaitingError):
                        out[job_id] = self._reason(explainer, job.row)
        return out

    def _reason(self, explainer: Explainer, row: int) -> str:
        state, now_s = self._writer.alliance.policy_core.state, self._clock_s()
        c = int(state.job[row]["cls"])
        is_first = state.job[row]["state"] == k.PENDING and state.job[row]["hold"] < 0 and int(state.cls[c]["root"]) == row
        if is_first and now_s - self._reason_of.get(c, ("", -1e9))[1] < REASONS_S:
            return self._reason_of[c][0]
        found = explainer.reason(row).value
        if is_first:
            self._reason_of[c] = found, now_s
        return found

    def expected_start_ms(self, job_id: str, max_age_s: float = 10.0) -> int | None:
        """When a waiting job is expected to start, epoch ms; None: not foreseen."""
        if self._is_old(max_age_s) and self._foreseeing.acquire(blocking=self._seq < 0):
            if self._is_old(max_age_s):
                run = threading.Thread(target=self._foresee_and_release, name="dure-foresight", daemon=True)
                run.start()
                # Who has an answer takes it, though it be some seconds old; a job that came since waits for the new one.
                if job_id not in self._starts:
                    run.join()
            else:
                self._foreseeing.release()
        return self._starts.get(job_id)

    def _foresee_and_release(self) -> None:
        try:
            self._foresee()
        finally:
            self._foreseeing.release()

    def _is_old(self, max_age_s: float) -> bool:
        return self._seq != self._writer.seq and self._clock_s() - self._made_s > max_age_s

    def _foresee(self) -> None:
        """Run the twin on a copy of the state, so that the writer goes on meanwhile."""
        writer, alliance = self._writer, self._writer.alliance
        with writer.lock:
            built, seq = alliance.policy_core.built, writer.seq
            # Decisions are carried out by now; half of all that would be copied is room for them.
            state = built.state.copy(dec=np.zeros(built.state.dec.shape, built.state.dec.dtype))
            at_ms = max(writer.now_ms() - alliance.start_ms, alliance.policy_core.now_ms)
            withheld, said = alliance.withheld_nodes(), alliance.words_of_radios()
        num = int(state.g[0]["num_jobs"])
        jobs = make_jobs(num)
        jobs["submit_ms"] = state.job["submit_ms"][:num]
        jobs["duration_ms"] = 0
        world = make_world(Trace(jobs, [], [], [], [], [], "live"), alliance.fleet, built, at_ms)
        # All jobs have been submitted; nodes come when agents offer them, not on a date; terms begun have begun.
        world.w[0]["next_job"], world.w[0]["next_fault"] = num, len(world.fault_at_ms)
        world.w[0]["next_wake"] = np.searchsorted(world.wake_ms, at_ms, side="right")
        world.withheld[list(withheld)] = 1
        for site, word in said.items():
            of_site = world.cell_site == site
            world.cell_said_milli[of_site], world.cell_until_ms[of_site] = word
        world.w[0]["look_at_ms"] = -(-at_ms // LOOK_MS) * LOOK_MS if len(world.cell_end) else world.w[0]["look_at_ms"]
        rows, starts = expected_starts(state, world, at_ms)
        self._starts = {
            alliance.job_at(int(row)): int(at) + alliance.start_ms for row, at in zip(rows, starts, strict=True) if at >= 0
        }
        self._seq, self._made_s = seq, self._clock_s()


def _before_the_policy(job: LiveJob | None) -> str:
    """Why a job waits that the policy has not seen; empty: it has."""
    if job is None or job.row >= 0:
        return ""
    if job.refused_why:
        return "refused"
    if job.unmet:
        return "dependency"
    return "array_limit" if job.request.array_limit else "begin_time"


class _Names(Sequence[str]):
    """Ids of jobs by their rows, as the explainer wants them."""

    def __init__(self, alliance: Any) -> None:
        self._alliance = alliance

    def __len__(self) -> int:
        return int(self._alliance.policy_core.state.g[0]["num_jobs"])

    def __getitem__(self, row: Any) -> Any:
        return self._alliance.job_at(int(row))


class Views:
    """All that can be read.

    Parameters
    ----------
    clock_s : callable
        Seconds of a clock that only goes forward.
    """

    def __init__(self, store: Store, writer: Writer, clock_s: Callable[[], float]) -> None:
        self.store, self.writer = store, writer
        self.foresight = Foresight(writer, clock_s)

    # --- jobs

    def job(self, row: dict[str, Any]) -> JobView:
        """A row of the read model as lists show it."""
        return self.job_views([row])[0]

    def job_views(self, rows: Sequence[dict[str, Any]]) -> list[JobView]:
        """Rows of the read model as lists show them."""
        waiting = [row["job_id"] for row in rows if row["state"] == "PENDING"]
        reasons = self.foresight.reasons(waiting)
        return [self._job(row, reasons.get(row["job_id"]) or None) for row in rows]

    @staticmethod
    def _job(row: dict[str, Any], reason: str | None) -> JobView:
        expected = row["promised_ms"] if row["state"] == "PENDING" else None
        return JobView(
            **{name: row[name] for name in ("job_id", "name", "project", "member", "user", "state", "attempt", "gpus",
                                            "exit_code", "array_index")},
            gpu_type=row["gpu_type"] or None, site=row["site"] or None, outcome=row["outcome"] or None,
            array_id=row["array_id"] or None, pipeline_id=row["pipeline_id"] or None,
            reason=reason, expected_start=iso(expected), submitted_at=_at(row["submitted_ms"]),
            started_at=iso(row["started_ms"]), ended_at=iso(row["ended_ms"]),
            progress=json.loads(row["progress"]) if row["progress"] else None, nodes=json.loads(row["nodes"]),
            limit_s=row["limit_s"],
        )  # fmt: skip

    def jobs(
        self, who: Principal, limit: int, after: str | None, where: dict[str, Any], text: str | None = None
    ) -> JobList:
        """A page of the jobs that the caller may see; `text` is a part of the name, the id or the user."""
        seen = who.visible()
        part = (("name", "job_id", "user"), text) if text else None
        rows: list[dict[str, Any]] = []
        if seen is None:
            rows = self.store.rows("job", limit=limit, descending=True, after=after, where=where, containing=part)
        else:
            members, projects = seen
            for column, allowed in (("member", members), ("project", projects)):
                if not allowed:
                    continue
                asked = where.get(column)
                values = [v for v in allowed if asked is None or v == asked]
                rows += self.store.rows(
                    "job", limit=limit, descending=True, after=after, where={**where, column: values}, containing=part
                )
            found = {row["job_id"]: row for row in rows}
            rows = [found[job_id] for job_id in sorted(found, reverse=True)[:limit]]
        following = rows[-1]["job_id"] if len(rows) == limit else None
        return JobList(jobs=self.job_views(rows), next=following)

    def endpoints(self, who: Principal, service: str, area: str | None, within_ms: float | None) -> list[Endpoint]:
        """Addresses of a service's running jobs that the caller may see: of an area, those that reach it, nearest first."""
        trips = {site.name: dict(site.reaches) for site in self.writer.alliance.fleet.sites}
        found = []
        for row in self.store.rows("job", where={"service": service, "state": "RUNNING"}):
            said = json.loads(row["progress"]) if row["progress"] else {}
            # What an earlier attempt said of itself may still be there.
            if not isinstance(said.get("url"), str) or said.get("attempt", row["attempt"]) != row["attempt"]:
                continue
            trip_ms = trips.get(row["site"], {}).get(area) if area else None
            if who.may_see(row["project"], row["member"]) and (area is None or (trip_ms is not None and trip_ms <= (within_ms or math.inf))):
                found.append(Endpoint(url=said["url"], job_id=row["job_id"], attempt=row["attempt"], site=row["site"], trip_ms=trip_ms))
        return sorted(found, key=lambda end: (end.trip_ms or 0.0, end.job_id))

    def _names(self, who: Principal, job_id: str) -> str | None:
        """What the caller may know of whose job that is: nothing where it may see the job itself, else its member."""
        job = self.writer.alliance.jobs.get(job_id)
        if job is None or who.may_see(job.request.project, job.request.member):
            return None
        return job.request.member

    def _veiled(self, who: Principal, text: str) -> str:
        """A message without the ids of jobs that the caller may not see."""

        def said(found: re.Match[str]) -> str:
            member = self._names(who, found[1])
            return found[0] if member is None else f"a job of {member}"

        return _JOB_IN_TEXT.sub(said, text)

    def _veiled_cause(self, who: Principal, cause: str) -> str:
        """Why an attempt had to leave: the job that it leaves for, or whose that is."""
        member = self._names(who, cause)
        return cause if member is None else f"a job of {member}"

    def detail(self, row: dict[str, Any], who: Principal) -> JobDetail:
        """A job with its attempts and its timeline."""
        attempts = self.store.rows("attempt", where={"job_id": row["job_id"]})
        attempts.sort(key=lambda a: a["attempt"])
        return JobDetail(
            **self.job(row).model_dump(), spec=json.loads(row["spec"]), attempts=[_attempt(a | {"cause": self._veiled_cause(who, a["cause"])}) for a in attempts],
            timeline=_timeline(row, attempts),
        )  # fmt: skip

    def explanation(self, row: dict[str, Any], who: Principal) -> ExplanationForm:
        """Rule 11 for one job."""
        job_id = row["job_id"]
        found = self.foresight.explain(job_id) if row["state"] == "PENDING" else None
        expected = self.foresight.expected_start_ms(job_id) if row["state"] == "PENDING" else None
        if row["promised_ms"]:
            expected = row["promised_ms"]
        if found is None:
            job = self.writer.alliance.jobs.get(job_id)
            reason = _before_the_policy(job) if row["state"] == "PENDING" else ""
            again = None if reason != "refused" or job is None else iso(job.retry_ms + self.writer.alliance.start_ms)
            words = {
                "dependency": "it waits for other jobs: " + ", ".join(sorted(job.unmet)),
                "array_limit": "as many jobs of its array run as may", "begin_time": "its moment has not come",
                "refused": f"its start was refused {job.refusals} times, last because {job.refused_why}; it is tried again at {again}",
            } if reason and job else {}  # fmt: skip
            message = words.get(reason, f"it does not wait: it is {row['state'].lower()}")
            return ExplanationForm(
                job_id=job_id, state=row["state"], reason=reason or None, rule=None, message=message, missing={}, held_by=[],
                expected_start=again, would_start_if=[], pools=[],
            )  # fmt: skip
        pools: list[dict[str, Any]] = [
            {"pool": p.pool, "reason": p.reason.value, "message": self._veiled(who, p.message),
             "facts": {key: value for key, value in p.facts.items() if key != "job" or self._names(who, str(value)) is None},
             "holders": [{"member": m, "gpus": used / 1000, "borrowed_gpus": borrowed / 1000} for m, used, borrowed in p.holders]}
            for p in found.pools
        ]  # fmt: skip
        nearest = next((pool for pool, of in zip(pools, found.pools, strict=True) if of is found.nearest), None)
        return ExplanationForm(
            job_id=job_id, state=row["state"], reason=found.reason.value, rule=found.rule, message=self._veiled(who, found.message),
            missing={key: value for key, value in (nearest["facts"] if nearest else {}).items() if isinstance(value, int)},
            held_by=nearest["holders"] if nearest else [], expected_start=iso(expected),
            would_start_if=[{"kind": c.kind, "pool": c.pool, "amount": c.amount, "message": c.message} for c in found.sooner],
            pools=pools,
        )  # fmt: skip

    # --- the alliance

    def members(self) -> list[MemberView]:
        """Shares, use and lending now."""
        alliance = self.writer.alliance
        with self.writer.lock:
            built = alliance.policy_core.built
            s = built.state
            is_up = s.node["state"] == k.UP
            online = np.bincount(s.node["pool"], is_up * s.node["num"], len(s.pool))
            home = s.pool["home"]
            mp, member = s.mp.copy(), s.member.copy()
        out = []
        for m, spec in enumerate(built.terms.members):
            used = int(mp[m]["use_g"].sum() + mp[m]["use_b"].sum())
            out.append(
                MemberView(
                    name=spec.name, kind=spec.kind, guarantee_gpus=float(mp[m]["guarantee"].sum()) / 1000,
                    online_gpus=float(online[home == m].sum()), used_gpus=used / 1000,
                    borrowed_gpus=float(member[m]["borrowed_milli"]) / 1000,
                    lent_gpus=float(member[m]["lent_milli"]) / 1000, waiting_jobs=int(member[m]["pending"]),
                    credits=float(member[m]["credit_milli_ms"]) / 3.6e9,
                )
            )  # fmt: skip
        return out

    def site(self, name: str, now_ms: int) -> SiteView:
        """One site."""
        return next(view for view in self.sites(now_ms) if view.name == name)

    def sites(self, now_ms: int) -> list[SiteView]:
        """Sites with what is online and in use."""
        alliance = self.writer.alliance
        agents = {row["site"]: row for row in self.store.rows("agent")}
        with self.writer.lock:
            s = alliance.policy_core.state
            node_site = s.pool["site"][s.node["pool"]]
            up = s.node["state"] == k.UP
            out = []
            for i, site in enumerate(alliance.fleet.sites):
                here = node_site == i
                row = agents.get(site.name)
                is_live = row is not None and now_ms - row["seen_ms"] < SILENT_MS
                part, until_ms = alliance.released(site.name, now_ms) or (None, None)
                out.append(
                    SiteView(
                        name=site.name, state=self._site_state(site.name), gpus=int(s.node["num"][here].sum()), online_gpus=int(s.node["num"][here & up].sum()),
                        used_gpus=float(s.node["used_milli"][here].sum()) / 1000, nodes=int(here.sum()), nodes_up=int((here & up).sum()), power_w=int(s.site[i]["power_w"]),
                        cap_w=int(s.site[i]["cap_w"]), agent="" if row is None else "connected" if is_live else "silent",
                        seen_at=iso(row["seen_ms"]) if row else None, released=part, released_until=None if until_ms is None else iso(until_ms),
                    )
                )  # fmt: skip
        return out

    def nodes(self, who: Principal) -> list[NodeView]:
        """Nodes that an agent offers or has offered, with the jobs on them that the caller may see."""
        offered = self._offered()
        with self.writer.lock:
            return [self._node(name, who, offered) for name in sorted(offered)]

    def node(self, name: str, who: Principal) -> NodeView:
        """One node, whether it was ever offered or not."""
        offered = self._offered()
        with self.writer.lock:
            return self._node(name, who, offered)

    def _offered(self) -> dict[str, bool]:
        """Nodes that agents offer or have offered, and whether one that is heard says that it is closed."""
        now_ms = self.writer.now_ms()
        return {
            node["name"]: not node.get("is_open", True) and now_ms - row["seen_ms"] < SILENT_MS
            for row in self.store.rows("agent") for node in json.loads(row["nodes"])
        }  # fmt: skip

    def _node(self, name: str, who: Principal, offered: Mapping[str, bool]) -> NodeView:
        alliance = self.writer.alliance
        built, n = alliance.policy_core.built, alliance.node_index(name)
        s = built.state
        node, jobs, seg = s.node[n], set(), int(s.node[n]["seg"])
        while seg >= 0:
            jobs.add(alliance.job_at(int(s.seg[seg]["job"])))
            seg = int(s.seg[seg]["node_next"])
        pool = s.pool[int(node["pool"])]
        return NodeView(
            name=name, site=alliance.fleet.sites[int(pool["site"])].name, pool=built.terms.pools[int(node["pool"])].name,
            gpu_type=alliance.fleet.gpu_types[max(int(pool["gpu_type"]), 0)].name, gpus=int(node["num"]),
            used_gpus=int(node["used_milli"]) / 1000, state=self._node_state(name, int(node["state"]), is_closed=offered.get(name, False)),
            owner=built.terms.members[int(pool["home"])].name, cpu_milli=int(node["cpu_all"]), mem_mib=int(node["mem_all"]),
            jobs=sorted(job for job in jobs if self._names(who, job) is None),
        )  # fmt: skip

    def _site_state(self, name: str) -> Any:
        return self.writer.alliance.closing_of_site(name) or "open"

    def _node_state(self, name: str, state: int, *, is_closed: bool) -> Any:
        alliance = self.writer.alliance
        if alliance.is_left_alone(name, self.writer.now_ms()):
            return "quarantined"
        if state in (k.UNKNOWN, k.OFFLINE) and alliance.is_withheld(name) and not alliance.closing_of(name):
            return "radio"
        closed = "closed" if state in (k.UNKNOWN, k.OFFLINE) and is_closed else ""
        return alliance.closing_of(name) or closed or _NODE_STATES[state]

    def agents(self, now_ms: int) -> list[AgentView]:
        """Agents, and whether they are heard."""
        return [
            AgentView(
                site=row["site"], agent_id=row["agent_id"], seen_at=_at(row["seen_ms"]),
                state="connected" if now_ms - row["seen_ms"] < SILENT_MS else "silent", nodes=len(json.loads(row["nodes"])),
                runs=len(self.writer.leases_at(row["site"])),
            )
            for row in self.store.rows("agent")
        ]  # fmt: skip

    # --- metering

    def usage(self, by: str, month: str, now_ms: int, who: Principal) -> Usage:
        """GPU time of a calendar month (UTC), by member, project or user.

        An attempt counts for the part of its time that lies in the month; its borrowed time in proportion.
        """
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        from_ms, to_ms = (int(moment.timestamp() * 1000) for moment in (first, following))
        seen = who.visible()
        table: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        has_energy: dict[tuple[str, str], bool] = defaultdict(bool)
        for row in self.store.ended_between(from_ms, to_ms):
            begin, end = row["leased_ms"], row["ended_ms"] if row["ended_ms"] is not None else now_ms
            inside = max(min(end, to_ms) - max(begin, from_ms), 0)
            gpu_s = inside * row["gpu_milli"] / 1e6
            whole = max(end - begin, 1)
            borrowed_ms = row["borrowed_ms"] if row["borrowed_ms"] is not None else (whole if row["agreement"] else 0)
            borrowed_s = gpu_s * min(borrowed_ms / whole, 1.0)
            if seen is None or row["member"] in seen[0] or row["project"] in seen[1]:
                cell = table[row[by], row["gpu_type"]]
                cell["gpu_seconds"] += gpu_s
                cell["borrowed_gpu_seconds"] += borrowed_s
                cell["own_gpu_seconds"] += gpu_s - borrowed_s
                cell["attempts"] += 1
                if row["energy_mj"] is not None:
                    has_energy[row[by], row["gpu_type"]] = True
                    cell["energy_kwh"] += row["energy_mj"] / 3.6e9 * inside / whole
            if by == "member" and borrowed_s > 0 and row["owner"] != row["member"] and (seen is None or row["owner"] in seen[0]):
                table[row["owner"], row["gpu_type"]]["lent_gpu_seconds"] += borrowed_s
        rows = [
            UsageRow(
                key=key, gpu_type=gpu_type, gpu_seconds=cell["gpu_seconds"], own_gpu_seconds=cell["own_gpu_seconds"],
                borrowed_gpu_seconds=cell["borrowed_gpu_seconds"], lent_gpu_seconds=cell["lent_gpu_seconds"],
                energy_kwh=cell["energy_kwh"] if has_energy[key, gpu_type] else None, attempts=int(cell["attempts"]),
            )
            for (key, gpu_type), cell in sorted(table.items())
        ]  # fmt: skip
        return Usage(month=month, by=by, rows=rows)


def _attempt(a: dict[str, Any]) -> AttemptView:
    return AttemptView(
        **{name: a[name] for name in ("lease_id", "attempt", "state", "cause", "site", "owner", "agreement", "gpu_type",
                                      "exit_code")},
        gpus=a["gpu_milli"] / 1000, placements=(parts := json.loads(a["placements"])), nodes=[p["node"] for p in parts],
        engine_gpus=json.loads(a["engine_gpus"]) if a["engine_gpus"] else None, leased_at=_at(a["leased_ms"]),
        started_at=iso(a["started_ms"]), ended_at=iso(a["ended_ms"]),
        run_s=None if a["run_ms"] is None else a["run_ms"] / 1000,
        borrowed_s=None if a["borrowed_ms"] is None else a["borrowed_ms"] / 1000,
        energy_kwh=None if a["energy_mj"] is None else a["energy_mj"] / 3.6e9,
        engine_gpu_seconds=None if a["engine_gpu_ms"] is None else a["engine_gpu_ms"] / 1000,
    )  # fmt: skip


def _timeline(row: dict[str, Any], attempts: list[dict[str, Any]]) -> list[TimelineEntry]:
    found: list[tuple[int, str, str, int | None]] = [(row["submitted_ms"], "submitted", f"by {row['user']}", None)]
    for a in attempts:
        number = a["attempt"]
        owner = f"on {a['owner']}'s GPUs" + (f" under {a['agreement']}" if a["agreement"] else "")
        words = f"attempt {number}, {a['gpu_milli'] / 1000:g} GPUs at {a['site']}, {owner}"
        found.append((a["leased_ms"], "leased", words, number))
        if a["started_ms"] is not None:
            found.append((a["started_ms"], "started", f"attempt {number}", number))
        if a["ended_ms"] is not None:
            code = "" if a["exit_code"] is None else f", exit code {a['exit_code']}"
            found.append((a["ended_ms"], a["state"], f"attempt {number}{code}", number))
    if row["ended_ms"] is not None:
        found.append((row["ended_ms"], "ended", row["outcome"], None))
    found.sort(key=lambda entry: entry[0])
    return [TimelineEntry(at_ms=ms, what=what, detail=detail, attempt=number) for ms, what, detail, number in found]
