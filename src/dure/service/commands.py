"""What people and agents may have done: commands for the writer. Each checks the caller's rights against the state."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from dure.core.live import Alliance
from dure.core.live_job import ENDED
from dure.model.accounts import is_unlike
from dure.model.alliance import SiteSpec
from dure.model.alliance_growth import text_of as text_of_site
from dure.model.events import (
    Cancel,
    CellsReleased,
    Cordon,
    Drain,
    Exited,
    JobRequest,
    LeaseLost,
    NodeDown,
    NodeSilent,
    NodeUp,
    SiteAdded,
    Stimulus,
    Submit,
    Uncordon,
)
from dure.model.fleet import Site
from dure.model.job_file import PRIORITY, WHEN, JobSpec, Pipeline, pipeline_order
from dure.policy.kernels import layout as k
from dure.service.errors import Problem, forbidden, invalid, not_found
from dure.service.identity import ENROL, Grant, Principal, check_grant, grants_of, hash_of, new_secret
from dure.service.projection import RUN, new_job_row
from dure.service.schemas import NewProject, NewToken, Sync
from dure.service.writer import Command, Heard, Plan, Writer

#: Jobs of one array or pipeline, and of one batch, in all.
TASKS_MAX = 10_000
#: A token with which an agent enrols is good for so long; the key that it gets; and its key from before, once it has another.
ENROL_S, KEY_S, OLD_KEY_S = 3_600, 90 * 86_400, 86_400
#: Characters of the files of jobs that are taken in at a time.
SPECS_CHARS_MAX = 64_000_000


#: What a token of a role does not name.
_FREE_OF = {
    "operator": ("member", "project", "site"), "auditor": ("member", "project", "site"), "agent": ("member", "project"),
    "member_admin": ("project", "site"), "project_lead": ("site",), "user": ("site",),
}  # fmt: skip


def _project(writer: Writer, who: Principal, named: str) -> tuple[str, str]:
    """(project, member) that a job is for.

    Raises
    ------
    Problem
        422: none named and none meant; 404: there is none; 403: not the caller's.
    """
    known = writer.projects
    name = named or who.default_project(sorted(known))
    if not name:
        raise invalid("name a project: `member/project`", "project")
    if name not in known:
        raise invalid(f"there is no project {name!r}", "project")
    if not who.may_submit(name, known[name]):
        raise forbidden(f"{who.user} may not submit to {name}")
    return name, known[name]


def _sites_of(spec: JobSpec, sites: Sequence[Site]) -> tuple[str, ...]:
    """Where it may run; none: anywhere. Countries and areas are those that sites have now."""
    r = spec.resources
    named = [site for site in sites if not r.sites or site.name in r.sites]
    found = [site for site in named if site.country in r.countries] if r.countries else named
    whose = "that it names " if r.sites else ""
    if not found and r.countries:
        raise invalid(f"no site {whose}lies in {' or '.join(r.countries)}", "resources.countries")
    if r.reach:
        trips = [ms for site in found for area, ms in site.reaches if area == r.reach.area]
        if not trips:
            raise invalid(f"no site {whose}reaches {r.reach.area!r}", "resources.reach.area")
        if min(trips) > r.reach.within:
            raise invalid(f"{r.reach.area!r} is {min(trips):g} ms away from the nearest site {whose}".rstrip(), "resources.reach.within")
        found = [site for site in found if dict(site.reaches).get(r.reach.area, math.inf) <= r.reach.within]
    return tuple(site.name for site in found) if r.countries or r.reach else r.sites


def request_of(spec: JobSpec, sites: Sequence[Site], job_id: str, member: str, project: str, user: str, *, array_id: str = "",
               depends_on: Sequence[tuple[str, str]] = ()) -> JobRequest:  # fmt: skip
    """What the policy must know of a job file.

    Raises
    ------
    Problem
        422: `begin` is not a moment; no site lies in the countries named.
    """
    r = spec.resources
    begin_ms = -1
    if spec.begin:
        try:
            moment = datetime.fromisoformat(spec.begin)
        except ValueError:
            raise invalid(f"{spec.begin!r} is not an ISO 8601 moment", "begin") from None
        if moment.tzinfo is None:
            raise invalid("give the offset from UTC, as in 2026-12-01T09:00:00+09:00", "begin")
        if not 1970 < moment.year < 9999:
            raise invalid(f"{spec.begin!r} is too far away", "begin")
        begin_ms = int(moment.timestamp() * 1000)
    return JobRequest(
        job_id, member, project, user, gpus=r.gpus, gpus_per_node=r.gpus_per_node, gpu_milli=r.gpu_milli,
        min_gpus=r.min_gpus, max_gpus=r.max_gpus, gpu_types=r.gpu_types, sites=_sites_of(spec, sites), cpu_milli=round(r.cpus * 1000),
        mem_mib=round(r.mem_gib * 1024), net_mbps=round(r.net_gbps * 1000), topology=r.topology,
        priority=PRIORITY[spec.priority], limit_ms=-1 if spec.time_limit is None else spec.time_limit,
        checkpoint_ms=spec.checkpoint.every, begin_ms=begin_ms, is_reserved=spec.reserve,
        depends_on=(*depends_on, *((d.job, WHEN[d.when]) for d in spec.depends_on)), array_id=array_id,
        array_limit=spec.array.limit if spec.array else 0, retries=spec.retries, grace_ms=spec.checkpoint.grace,
    )  # fmt: skip


def _may_wait_for(alliance: Alliance, name: str, who: Principal) -> bool:
    """Whether there is a job or array of that id that the caller may see."""
    tasks = alliance.tasks_of(name)
    return bool(tasks) and who.may_see(alliance.jobs[tasks[0]].request.project, alliance.jobs[tasks[0]].request.member)


def _check(writer: Writer, requests: Sequence[JobRequest], who: Principal) -> None:
    """Names that exist, and sizes that some pool could ever give.

    Raises
    ------
    Problem
        422, with the job's name of the field.
    """
    alliance = writer.alliance
    types = {t.name.lower() for t in alliance.fleet.gpu_types}
    sites = {s.name for s in alliance.fleet.sites}
    coming = {r.job_id for r in requests} | {r.array_id for r in requests}
    for r in requests:
        for t in r.gpu_types:
            if t.lower() not in types:
                raise invalid(f"no GPU type {t!r}; there are {', '.join(sorted(x.name for x in alliance.fleet.gpu_types))}",
                              "resources.gpu_types")  # fmt: skip
        for site in r.sites:
            if site not in sites:
                raise invalid(f"no site {site!r}", "resources.sites")
        for before, _ in r.depends_on:
            if before not in coming and not _may_wait_for(alliance, before, who):
                raise invalid(f"no job {before!r}", "depends_on")
    for r, is_possible in zip(requests, alliance.could_run(requests), strict=True):
        if not is_possible:
            raise invalid(
                f"no pool that {r.member} may use could ever give {r.gpus} GPUs of that type, site and topology", "resources"
            )


def text_of(spec: JobSpec) -> str:
    """A job's file as it is kept."""
    return spec.model_dump_json(exclude_defaults=True)


def submit(specs: Sequence[JobSpec], who: Principal) -> Command:
    """Take jobs in, all or none; the result: for each its ids (several of an array)."""

    def command(writer: Writer) -> Plan:
        plan = Plan()
        requests: list[JobRequest] = []
        ids: list[tuple[str, list[str]]] = []
        at_ms, num_chars = writer.now_ms(), 0
        for spec in specs:
            project, member = _project(writer, who, spec.project)
            job_id = writer.new_id()
            indices: Sequence[int | None] = spec.array.indices if spec.array else (None,)
            names = [job_id if index is None else f"{job_id}_{index}" for index in indices]
            if len(requests) + len(names) > TASKS_MAX:
                raise invalid(f"more than {TASKS_MAX} jobs at a time", "array")
            text = text_of(spec)
            num_chars += len(text) * len(names)
            if num_chars > SPECS_CHARS_MAX:
                raise invalid("the jobs' files, of an array one for each task, are too large together", "array")
            for name, index in zip(names, indices, strict=True):
                array_id = job_id if spec.array else ""
                requests.append(request_of(spec, writer.alliance.fleet.sites, name, member, project, who.user, array_id=array_id))
                plan.changes.add("job", new_job_row(name, spec, text, member, project, who.user, at_ms, array_id, index))
            ids.append((job_id, names))
        _check(writer, requests, who)
        plan.stimuli, plan.result = [Submit(r) for r in requests], ids
        return plan

    return command


def submit_pipeline(pipeline: Pipeline, who: Principal) -> Command:
    """Take a pipeline's jobs in; the result: its id and the jobs' ids by name."""

    def command(writer: Writer) -> Plan:
        plan = Plan()
        requests: list[JobRequest] = []
        ids: dict[str, str] = {}
        at_ms, pipeline_id = writer.now_ms(), writer.new_id()
        for name in pipeline_order(pipeline):
            spec = pipeline.jobs[name]
            if spec.array is not None:
                raise invalid("a job of a pipeline cannot be an array", f"jobs.{name}.array")
            project, member = _project(writer, who, spec.project or pipeline.project)
            ids[name] = writer.new_id()
            before = [(ids[other], "afterok") for other in spec.needs]
            requests.append(request_of(spec, writer.alliance.fleet.sites, ids[name], member, project, who.user, depends_on=before))
            kept = JobSpec.model_construct(
                **{field: getattr(spec, field) for field in JobSpec.model_fields} | {"name": spec.name if spec.name != "job" else name}
            )  # fmt: skip
            plan.changes.add(
                "job", new_job_row(ids[name], kept, text_of(kept), member, project, who.user, at_ms, "", None, pipeline_id, name)
            )
        _check(writer, requests, who)
        plan.stimuli, plan.result = [Submit(r) for r in requests], (pipeline_id, ids)
        return plan

    return command


def cancel(job_id: str, who: Principal) -> Command:
    """Take a job back, or all jobs of an array."""

    def command(writer: Writer) -> Plan:
        alliance = writer.alliance
        names = alliance.tasks_of(job_id)
        stimuli: list[Stimulus] = []
        for name in names:
            request = alliance.jobs[name].request
            if not who.may_see(request.project, request.member):
                raise not_found("job", job_id)
            if not who.may_change(request.project, request.member, request.user):
                raise forbidden(f"{who.user} may not cancel jobs of {request.user}")
            if alliance.jobs[name].state != ENDED:
                stimuli.append(Cancel(name, who.user))
        if not names:
            raise not_found("job", job_id)
        return Plan(stimuli, result=names)

    return command


def make_project(new: NewProject, who: Principal) -> Command:
    """Make a project of a member."""

    def command(writer: Writer) -> Plan:
        if new.member not in writer.member_names:
            raise not_found("member", new.member)
        if not who.may_administer(new.member):
            raise forbidden(f"{who.user} does not administer {new.member}")
        name = f"{new.member}/{new.name}"
        if name in writer.projects:
            raise Problem(409, "Conflict", f"there is a project {name!r}")
        row = {"project": name, "member": new.member, "weight": new.weight, "made_ms": writer.now_ms()}
        plan = Plan(facts=[{"fact": "project", **row}], result=row)
        plan.changes.add("project", row)
        writer.projects[name] = new.member
        return plan

    return command


def make_token(new: NewToken, who: Principal | None) -> Command:
    """Make a token; the result: its id, its text and when it ends. `who` None: the service itself."""

    def command(writer: Writer) -> Plan:
        grant = Grant(new.role, new.member or writer.projects.get(new.project, ""), new.project, new.site)
        if who is not None:
            check_grant(who, grant)
        _check_place(writer, grant)
        return _new_token(writer, new.user, new.name, [grant], new.expires_in_s)

    return command


def make_session(user: str, grants: Sequence[Grant], expires_in_s: int) -> Command:
    """A token for someone whom a provider vouches for; the result is as `make_token`'s.

    A role in a place that there is not (yet) is left out.

    Raises
    ------
    Problem
        403: no role is left.
    """

    def command(writer: Writer) -> Plan:
        held = []
        for grant in grants:
            found = replace(grant, member=grant.member or writer.projects.get(grant.project, ""))
            with suppress(Problem):
                _check_place(writer, found)
                held.append(found)
        if not held:
            raise forbidden(f"{user} has no role here: an operator maps the provider's groups to roles")
        return _new_token(writer, user, "sign-in", held, expires_in_s)

    return command


def _check_place(writer: Writer, grant: Grant) -> None:
    """Whether a role's place is there, and is of its kind.

    Raises
    ------
    Problem
        404: no such project, member or site; 422: not a place for that role.
    """
    if grant.project and grant.project not in writer.projects:
        raise not_found("project", grant.project)
    if grant.member and grant.member not in writer.member_names:
        raise not_found("member", grant.member)
    if grant.project and writer.projects[grant.project] != grant.member:
        raise invalid(f"project {grant.project!r} is not {grant.member}'s", "member")
    wanted = {"member_admin": "member", "project_lead": "project", "agent": "site"}.get(grant.role)
    if wanted and not getattr(grant, wanted):
        raise invalid(f"a token of role {grant.role} names a {wanted}", wanted)
    for name in _FREE_OF[grant.role]:
        if getattr(grant, name):
            raise invalid(f"a token of role {grant.role} names no {name}", name)
    if grant.role == "user" and not grant.member:
        raise invalid("a token of role user names a project or a member", "project")
    if grant.site and grant.site not in {s.name for s in writer.alliance.fleet.sites}:
        raise not_found("site", grant.site)


def _new_token(writer: Writer, user: str, name: str, grants: Sequence[Grant], expires_in_s: int) -> Plan:
    secret, token_id, now = new_secret(), writer.new_id(), writer.now_ms()
    forms = [grant.form() for grant in grants]
    row = {
        "token_id": token_id, "hash": hash_of(secret), "name": name, "user": user, "grants": json.dumps(forms),
        "made_ms": now, "expires_ms": now + expires_in_s * 1000, "is_revoked": False, "from_id": "",
    }  # fmt: skip
    plan = _with_token(row)
    plan.result = (token_id, secret, row["expires_ms"])
    return plan


def _with_token(row: dict[str, Any]) -> Plan:
    fact = {x: y for x, y in row.items() if x != "hash"}
    plan = Plan(facts=[{"fact": "token", **fact, "grants": json.loads(row["grants"])}])
    plan.changes.add("token", row)
    return plan


def revoke_token(token_id: str, who: Principal) -> Command:
    """End a token."""

    def command(writer: Writer) -> Plan:
        row = writer.store.row("token", token_id)
        if row is None or not who.may_see_token(row["user"], grants_of(row)):
            raise not_found("token", token_id)
        plan = Plan(facts=[{"fact": "token revoked", "token_id": token_id}])
        plan.changes.change("token", token_id, is_revoked=True)
        return plan

    return command


def add_site(site: SiteSpec) -> Command:
    """Let a site join; the result: that of the token with which its agent enrols, as `make_token`'s."""

    def command(writer: Writer) -> Plan:
        plan = _enrolment(writer, site.name)
        plan.stimuli = [SiteAdded(text_of_site(site))]
        return plan

    return command


def make_enrolment(site: str, who: Principal) -> Command:
    """A token with which an agent of a site enrols; the result is as `make_token`'s."""

    def command(writer: Writer) -> Plan:
        _check_runs(writer, who, site)
        return _enrolment(writer, site)

    return command


def _enrolment(writer: Writer, site: str) -> Plan:
    return _new_token(writer, "agent", f"to enrol at {site}", [Grant(ENROL, site=site)], ENROL_S)


def _check_runs(writer: Writer, who: Principal, site: str) -> None:
    """Raise 403 unless the caller runs a site, 404 where there is none."""
    if not all(who.may_administer(member) for member in writer.alliance.runners_of(site)):
        raise forbidden(f"{who.user} does not run {site}")


def enrol(site: str, agent_id: str, key: str, who: Principal) -> Command:
    """Keep the key that an agent has made for itself, for the token with which it enrols; the result: its id and end.

    The same again changes nothing, as the answer may have been lost; with any other key the token is used up.
    """

    def command(writer: Writer) -> Plan:
        hashed = hash_of(key)
        for row in _keys_from(writer, who.token_id):
            if row["hash"] != hashed or row["is_revoked"]:
                raise forbidden("this token has been used: make another with `dure site enrol`")
            return Plan(result=(row["token_id"], row["expires_ms"]))
        return _keep_key(writer, site, f"agent {agent_id}", hashed, who.token_id)

    return command


def renew_key(site: str, key: str, who: Principal) -> Command:
    """Keep another key that an agent has made for itself; the one that it comes with ends soon. As `enrol`."""

    def command(writer: Writer) -> Plan:
        hashed, now = hash_of(key), writer.now_ms()
        for row in _keys_from(writer, who.token_id):
            if row["hash"] == hashed:
                return Plan(result=(row["token_id"], row["expires_ms"]))
        old = writer.store.row("token", who.token_id)
        plan = _keep_key(writer, site, old["name"] if old else "", hashed, who.token_id)
        plan.changes.change("token", who.token_id, expires_ms=min(who.expires_ms, now + OLD_KEY_S * 1000))
        return plan

    return command


def _keys_from(writer: Writer, token_id: str) -> list[dict[str, Any]]:
    """Keys that were given for a token, also those of which the log is being written."""
    found = writer.store.rows("token", where={"from_id": token_id})
    return [*found, *(row for row in writer.keys_made if row["from_id"] == token_id)]


def _keep_key(writer: Writer, site: str, name: str, hashed: str, from_id: str) -> Plan:
    if any(row["hash"] == hashed for row in writer.keys_made) or writer.store.rows("token", where={"hash": hashed}, limit=1):
        raise Problem(409, "Conflict", "this key is in use")
    now = writer.now_ms()
    row = {
        "token_id": writer.new_id(), "hash": hashed, "name": name, "user": "agent",
        "grants": json.dumps([Grant("agent", site=site).form()]), "made_ms": now, "expires_ms": now + KEY_S * 1000,
        "is_revoked": False, "from_id": from_id,
    }  # fmt: skip
    plan = _with_token(row)
    writer.keys_made.append(row)
    plan.result = (row["token_id"], row["expires_ms"])
    return plan


def operate(asked: Cordon | Drain | Uncordon, who: Principal) -> Command:
    """Close or open a node or a site, as its operators may."""

    def command(writer: Writer) -> Plan:
        alliance = writer.alliance
        site = asked.site or alliance.site_of(asked.node)
        if not asked.node or not who.may_administer(alliance.owner_of(asked.node)):
            _check_runs(writer, who, site)
        return Plan([asked])

    return command


def release_cells(site: str, part: float, for_ms: int, who: Principal) -> Command:
    """Take the word of a cell site's radio for what it releases from now on, as those who run the site may give it."""

    def command(writer: Writer) -> Plan:
        alliance = writer.alliance
        _check_runs(writer, who, site)
        if alliance.released(site, writer.now_ms()) is None:
            raise invalid(f"{site} is no cell site with hours: all of it is released, always", "path.site")
        return Plan([CellsReleased(site, round(part * 1000), writer.now_ms() + for_ms)])

    return command


def report_progress(job_id: str, progress: dict[str, Any], who: Principal) -> Command:
    """What a job says of itself."""

    def command(writer: Writer) -> Plan:
        job = writer.alliance.jobs.get(job_id)
        if job is None or not who.may_see(job.request.project, job.request.member):
            raise not_found("job", job_id)
        if not who.may_change(job.request.project, job.request.member, job.request.user):
            raise forbidden(f"{who.user} may not report for jobs of {job.request.user}")
        plan = Plan(is_quiet=True)
        plan.changes.change("job", job_id, progress=json.dumps(progress))
        return plan

    return command


def take_sync(site: str, sync: Sync) -> Command:
    """An agent's picture: what has ended is told to the core, nodes that are new are offered, the rest is noted.

    A picture older than the last one is refused, and so is another agent's while leases of the first one are open: what
    it was given may still run.
    """

    def command(writer: Writer) -> Plan:
        alliance, desk = writer.alliance, writer.desk
        plan, now = Plan(), writer.now_ms()
        stimuli: list[Stimulus] = []
        heard = writer.heard.get(site)
        if heard is not None and heard.agent_id != sync.agent_id and desk.has_at(site):
            raise Problem(409, "Conflict", f"another agent of {site} has leases until they run out")
        if heard is not None and heard.boot == sync.boot and sync.seq < heard.seq:
            raise Problem(409, "Conflict", f"picture {sync.seq} is older than {heard.seq}")
        here = {s.name: i for i, s in enumerate(alliance.fleet.sites)}[site]
        state = alliance.policy_core.state
        offered = set()
        for node in sync.nodes:
            n = alliance.node_index(node.name)
            if int(state.pool[int(state.node[n]["pool"])]["site"]) != here:
                raise invalid(f"node {node.name!r} is not of site {site!r}", "nodes")
            if node.gpus < int(state.node[n]["num"]):
                raise invalid(f"node {node.name!r} has {int(state.node[n]['num'])} GPUs in the alliance, not {node.gpus}", "nodes")
            offered.add(node.name)
            at = int(state.node[n]["state"])
            if node.is_open and at in (k.DOWN, k.OFFLINE, k.UNKNOWN):
                if not alliance.is_left_alone(node.name, now) and alliance.may_open(node.name):
                    stimuli.append(NodeUp(node.name))
            elif not node.is_open and at == k.UP:
                # Its jobs go on: what is silent takes no new work.
                stimuli.append(NodeSilent(node.name))
        before = writer.offered.get(site, set())
        stimuli += [NodeDown(name, is_failure=False) for name in sorted(before - offered)]
        for run in sync.runs:
            lease = desk.leases.get(run.lease_id)
            if lease is None or lease.site != site:
                continue
            if run.fence and run.fence != lease.fence:
                continue
            if run.state == "exited":
                stimuli.append(Exited(lease.job_id, lease.attempt, run.exit_code))
            elif run.state == "lost":
                stimuli.append(LeaseLost(lease.job_id, lease.attempt, run.refused))
            elif not lease.is_started and run.started_ms >= 0:
                desk.put(replace(lease, is_started=True))
                # An attempt that was told to leave before it was seen to run stays one that leaves.
                is_staying = lease.action == RUN
                plan.changes.change("attempt", lease.lease_id, started_ms=now, **({"state": "running"} if is_staying else {}))
                plan.changes.change("job", lease.job_id, started_ms=now, **({"state": "RUNNING"} if is_staying else {}))
            if run.log_bytes is not None:
                plan.changes.change("attempt", lease.lease_id, log_bytes=json.dumps(run.log_bytes))
            if run.progress is not None:
                plan.changes.change("job", lease.job_id, progress=json.dumps(run.progress))
            if run.gpu_idxs is not None and (engine_gpus := json.dumps(run.gpu_idxs, sort_keys=True)) != lease.engine_gpus:
                if lease.lease_id in desk.leases:
                    desk.put(replace(desk.leases[lease.lease_id], engine_gpus=engine_gpus))
                plan.changes.change("attempt", lease.lease_id, engine_gpus=engine_gpus)
            if run.gpu_energy_mj >= 0:
                plan.changes.change("attempt", lease.lease_id, energy_mj=run.gpu_energy_mj)
            if run.engine_gpu_ms >= 0:
                gpu_milli = sum(len(part.gpus) * part.gpu_milli for part in lease.placements)
                ran_ms = run.ended_ms - run.started_ms if run.started_ms >= 0 else 0
                is_other = is_unlike(ran_ms * gpu_milli // 1000, run.engine_gpu_ms, gpu_milli)
                writer.accounts[site, "record", is_other] += 1
                plan.changes.change("attempt", lease.lease_id, engine_gpu_ms=run.engine_gpu_ms)
        for account in sync.accounts:
            found = writer.store.row("attempt", account.lease_id)
            if found is not None and found["site"] == site and found["run_ms"] is not None:
                is_other = is_unlike(found["run_ms"] * found["gpu_milli"] // 1000, account.engine_gpu_ms, found["gpu_milli"])
                writer.accounts[site, "database", is_other] += 1
                plan.changes.change("attempt", account.lease_id, engine_gpu_ms=account.engine_gpu_ms)
        row = {"agent_id": sync.agent_id, "boot": sync.boot, "seen_ms": now,
               "nodes": json.dumps([n.model_dump() for n in sync.nodes])}  # fmt: skip
        if site in writer.offered:
            plan.changes.change("agent", site, **row)
        else:
            plan.changes.add("agent", {"site": site, **row})
        writer.offered[site] = offered
        writer.heard[site] = Heard(sync.agent_id, sync.boot, sync.seq, writer.clock.elapsed_ms())
        plan.stimuli, plan.is_quiet = stimuli, not stimuli
        return plan

    return command


def expire_silent(silent_ms: int, ttl_ms: int, margin_ms: int) -> Command:
    """Agents not heard: their nodes take no new work; past the time to live of their leases, all on them is lost.

    An agent that hears nothing stops its jobs itself when `ttl_ms` has passed, so that they may start elsewhere after
    the margin and nothing runs twice.
    """

    def command(writer: Writer) -> Plan:
        stimuli: list[Stimulus] = []
        state, elapsed = writer.alliance.policy_core.state, writer.clock.elapsed_ms()
        for site, heard in writer.heard.items():
            silent = elapsed - heard.elapsed_ms
            if silent < silent_ms:
                continue
            for name in sorted(writer.offered.get(site, ())):
                at = int(state.node[writer.alliance.node_index(name)]["state"])
                if silent >= ttl_ms + margin_ms and at in (k.UP, k.SPARE, k.UNKNOWN):
                    stimuli.append(NodeDown(name))
                elif at == k.UP and silent < ttl_ms + margin_ms:
                    stimuli.append(NodeSilent(name))
        return Plan(stimuli, is_quiet=not stimuli)

    return command
