"""The live alliance, deterministic: stimuli by name in, effects by name out; a log of them replays to the same.

What a service needs beside the policy's `Core` is here, without I/O: names, dependencies, arrays, attempts, retries,
fences and timers. Times are epoch ms as the shell stamps them; inside, the core counts from the log's beginning.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from dure.core import step as core
from dure.core.closures import CORDONED, DRAINING, Closures
from dure.core.growth import check_terms
from dure.core.live_job import ADMITTED, COMPLETING, ENDED, PENDING, LiveJob, job_as_list, job_from_list
from dure.core.step import Core, DecisionKind
from dure.model.errors import DureError, InputError
from dure.model.events import (
    AFTER_ANY,
    AFTER_OK,
    Cancel,
    CellsReleased,
    Changed,
    Cordon,
    Drain,
    Effect,
    Exited,
    Held,
    JobRequest,
    LeaseLost,
    NodeDown,
    NodeSilent,
    NodeUp,
    Placement,
    Quarantined,
    Released,
    SiteAdded,
    Start,
    Stimulus,
    Stop,
    Submit,
    Tick,
    Uncordon,
    Vacate,
)
from dure.model.fleet import Fleet
from dure.model.jobs import UNKNOWN, Trace, make_jobs
from dure.model.terms import AgreementTerms, Terms
from dure.policy.config import Policy
from dure.policy.kernels import layout as k

_TOPOLOGY = {"any": 0, "node": 1, "rack": 2, "block": 3, "cluster": 4}
#: A job whose start was refused waits so long before it is tried again, ms: doubled with each refusal, up to the last.
REFUSED_FIRST_MS, REFUSED_LAST_MS = 1_000, 300_000
#: What a node or site that drains is when nothing runs there any more.
DRAINED = "drained"
#: Why what runs on a cell site's node leaves it when no other job wants its place.
RADIO = "radio"
#: Timers, in the order in which they are taken at one moment.
_RANK, _DUE, _TERMS, _RELEASE, _LIMIT, _BEGIN, _CELLS = range(7)


class UnknownJobError(DureError):
    """A stimulus names a job or node that does not exist."""


class Alliance:
    """State of one live alliance.

    Parameters
    ----------
    fleet : Fleet
        All nodes are out of service until an agent offers them.
    start_ms : int
        Epoch ms that the terms' times count from.
    with_sites : callable, optional
        Fleet and terms with further sites, each a text of `SiteAdded`, after those that there were; raises InputError
        where they do not fit. Without it no site can be added.
    """

    def __init__(
        self, fleet: Fleet, terms: Terms, policy: Policy, start_ms: int,
        with_sites: Callable[[Sequence[str]], tuple[Fleet, Terms]] | None = None,
    ) -> None:  # fmt: skip
        self._with_sites, self._sites_added = with_sites, list[str]()
        self._take_fleet(fleet)
        self.start_ms = start_ms
        self._now = 0
        self._core = Core(self.fleet, terms, self._trace([]), policy)
        self.jobs: dict[str, LiveJob] = {}
        self._by_row: list[str] = []
        self._children: dict[str, list[str]] = defaultdict(list)
        self._arrays: dict[str, list[str]] = defaultdict(list)
        self._array_wait: dict[str, deque[str]] = defaultdict(deque)
        self._array_run: dict[str, int] = defaultdict(int)
        self._timers: list[tuple[int, int, int, int]] = []
        self._begins: list[str] = []
        self._closures = Closures(self.fleet)
        self._watch_cells()
        self._fence = 0
        self._watch_terms(terms.agreements)

    def _take_fleet(self, fleet: Fleet) -> None:
        nodes = fleet.nodes.copy()
        nodes["online_ms"] = 1
        self.fleet = Fleet(nodes, fleet.gpu_types, fleet.sites, fleet.clusters, fleet.node_names)
        self._names = fleet.node_names or _names_of(fleet)
        self._node = {name: i for i, name in enumerate(self._names)}

    def _watch_terms(self, agreements: Sequence[AgreementTerms]) -> None:
        for a in agreements:
            for at in (a.start_ms, a.end_ms):
                if self._now < at < k.NEVER_MS:
                    heapq.heappush(self._timers, (at, _TERMS, 0, 0))

    def _watch_cells(self) -> None:
        at = self._closures.next_turn_ms(self._now)
        if at is not None and not any(kind == _CELLS and due <= at for due, kind, _, _ in self._timers):
            heapq.heappush(self._timers, (at, _CELLS, 0, 0))

    def _turn_cells(self) -> None:
        """Close the nodes that radio work takes (rule 10)."""
        for n in self._closures.turn(self._now):
            site = self.fleet.sites[int(self.fleet.nodes["site"][n])]
            self._tell(core.NodeClosed(n))
            self._tell(core.NodeDrained(n, site.cells.vacate_ms if site.cells else 0))
        self._watch_cells()

    def _grown(self, sites: Sequence[str]) -> tuple[Fleet, Terms]:
        """Fleet and terms with so many more sites.

        Raises
        ------
        InputError
            They do not fit, or none may be added here.
        """
        if self._with_sites is None:
            raise InputError("no site can be added to this alliance")
        fleet, terms = self._with_sites([*self._sites_added, *sites])
        check_terms(self._core.built.terms, terms)
        return fleet, terms

    def _add_sites(self, sites: Sequence[str]) -> None:
        fleet, terms = self._grown(sites)
        known = {a.name for a in self._core.built.terms.agreements}
        self._take_fleet(fleet)
        self._core.grow(self.fleet, terms, self._trace([]))
        self._sites_added.extend(sites)
        self._closures.take_fleet(self.fleet)
        self._turn_cells()
        self._watch_terms([a for a in terms.agreements if a.name not in known])

    def kept(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that it holds at rest, for `core.snapshot`: what JSON can say, and the policy's arrays themselves."""
        register, arrays = self._core.built.register.kept()
        registers = {
            "sites_added": self._sites_added, "register": register, "jobs": [job_as_list(job) for job in self.jobs.values()], "by_row": self._by_row,
            "children": self._children, "arrays": self._arrays, "array_run": self._array_run,
            "array_wait": {name: list(waiting) for name, waiting in self._array_wait.items()},
            "timers": self._timers, "begins": self._begins, "fence": self._fence,
            "closures": self._closures.kept(),
        }  # fmt: skip
        return registers, arrays

    def put_back(self, registers: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of `kept`, on an alliance to which nothing has happened yet."""
        if registers["sites_added"]:
            self._add_sites(registers["sites_added"])
        self._core.built.register.put_back(registers["register"], arrays)
        jobs = [job_from_list(values) for values in registers["jobs"]]
        self.jobs = {job.request.job_id: job for job in jobs}
        self._by_row = registers["by_row"]
        self._children = defaultdict(list, registers["children"])
        self._arrays = defaultdict(list, registers["arrays"])
        self._array_run = defaultdict(int, registers["array_run"])
        self._array_wait = defaultdict(deque, {name: deque(jobs) for name, jobs in registers["array_wait"].items()})
        self._timers = [tuple(timer) for timer in registers["timers"]]
        self._begins, self._fence = registers["begins"], registers["fence"]
        self._closures.put_back(registers["closures"])

    @property
    def policy_core(self) -> Core:
        """The policy's core, for reading: explanations, forecasts, the members' accounts."""
        return self._core

    def node_index(self, name: str) -> int:
        """Place of a node in the fleet.

        Raises
        ------
        UnknownJobError
            There is none of that name.
        """
        if name not in self._node:
            raise UnknownJobError(f"no node {name!r} in the fleet")
        return self._node[name]

    def node_name(self, index: int) -> str:
        """Name of a node by its place in the fleet."""
        return self._names[index]

    def nodes_of_site(self, site: str) -> list[str]:
        """Names of the nodes that stand at a site; none where there is no such site."""
        return [self._names[n] for i, s in enumerate(self.fleet.sites) if s.name == site for n in self._closures.nodes_of(i)]

    def job_at(self, row: int) -> str:
        """Id of the job in a row of the policy's table."""
        return self._by_row[row]

    def is_array(self, name: str) -> bool:
        """Whether an array has that id."""
        return name in self._arrays

    def tasks_of(self, name: str) -> list[str]:
        """The jobs that an id names: itself, or an array's; none where there is no such."""
        if name in self.jobs:
            return [name]
        return list(self._arrays.get(name, ()))

    def is_left_alone(self, node: str, at_ms: int) -> bool:
        """Whether a node gets no new work at a moment, epoch ms, because it refused what was to start there."""
        return self._closures.is_left_alone(self.node_index(node), at_ms - self.start_ms)

    def site_index(self, name: str) -> int:
        """Place of a site in the fleet.

        Raises
        ------
        UnknownJobError
            There is none of that name.
        """
        for i, site in enumerate(self.fleet.sites):
            if site.name == name:
                return i
        raise UnknownJobError(f"no site {name!r} in the alliance")

    def runners_of(self, site: str) -> set[str]:
        """The members that run a site: its operator, or all that own something there where none is named."""
        i = self.site_index(site)
        if self.fleet.sites[i].operator:
            return {self.fleet.sites[i].operator}
        members = self._core.built.terms.members
        return {members[m].name for m in np.unique(self.fleet.nodes["owner"][self.fleet.nodes["site"] == i])}

    def owner_of(self, node: str) -> str:
        """The member that owns a node."""
        return self._core.built.terms.members[int(self.fleet.nodes["owner"][self.node_index(node)])].name

    def site_of(self, node: str) -> str:
        """The site at which a node stands."""
        return self.fleet.sites[int(self.fleet.nodes["site"][self.node_index(node)])].name

    def closed_nodes(self) -> frozenset[int]:
        """Places of the nodes that an operator has closed, by themselves or with their sites."""
        return self._closures.closed_nodes()

    def withheld_nodes(self) -> frozenset[int]:
        """Places of the nodes of cell sites that radio work has."""
        return self._closures.withheld

    def words_of_radios(self) -> dict[int, tuple[int, int]]:
        """Place of a cell site → what its radio has said, 1/1000, and until when that counts, ms from the alliance's start."""
        return self._closures.words()

    def is_withheld(self, node: str) -> bool:
        """Whether radio work has a node of a cell site."""
        return self.node_index(node) in self._closures.withheld

    def released(self, site: str, at_ms: int) -> tuple[float, int | None] | None:
        """What part of a cell site radio work releases, and until when its radio has said so, epoch ms; None: no cell site.

        Without a second number, the hours do.
        """
        i = self.site_index(site)
        hours, word = self.fleet.sites[i].cells, self._closures.words().get(i)
        if hours is None:
            return None
        now = at_ms - self.start_ms
        if word is not None and word[1] > now:
            return word[0] / 1000, word[1] + self.start_ms
        return hours.lent_milli[hours.hour(now)] / 1000, None

    def may_open(self, node: str) -> bool:
        """Whether a node takes work where it is up: neither has an operator closed it nor has radio work taken it."""
        return not self.is_closed(node) and not self.is_withheld(node)

    def is_closed(self, node: str) -> bool:
        """Whether an operator has closed a node, by itself or with its site."""
        return bool(self._closures.of_node(self.node_index(node)))

    def closing_of(self, node: str) -> str:
        """How an operator has closed a node: cordoned, draining or drained; empty: it is open."""
        n = self.node_index(node)
        return self._as_drained(self._closures.of_node(n), [n])

    def closing_of_site(self, site: str) -> str:
        """How an operator has closed a whole site: cordoned, draining or drained; empty: it is open."""
        i = self.site_index(site)
        return self._as_drained(self._closures.of_site(i), self._closures.nodes_of(i))

    def _as_drained(self, closing: str, nodes: Sequence[int]) -> str:
        return DRAINED if closing == DRAINING and bool((self._core.state.node["seg"][nodes] < 0).all()) else closing

    def next_due_ms(self) -> int | None:
        """Epoch ms at which the next timer is due, if nothing else happens; None: there is none."""
        return self._timers[0][0] + self.start_ms if self._timers else None

    def could_run(self, requests: Sequence[JobRequest]) -> list[bool]:
        """Whether some pool could ever take each job: size, shape, types, sites and rights."""
        return [bool(n) for n in self._core.built.register.num_pools_for(self._trace(requests))]

    def apply(self, at_ms: int, stimuli: Sequence[Stimulus]) -> list[Effect]:
        """Take in what was seen up to `at_ms` and decide. Clocks that step back are taken to stand still.

        Raises
        ------
        UnknownJobError, InputError
            A stimulus names what does not exist, or a site that does not fit; nothing was changed.
        """
        self._check(stimuli)
        now = max(at_ms - self.start_ms, self._core.now_ms)
        self._now = now
        self._effects: list[Effect] = []
        self._fresh: list[str] = []
        self._after_rank: list[int] = []
        self._after_due: list[int] = []
        self._take_timers()
        for stimulus in stimuli:
            self._take(stimulus)
        while self._fresh:
            self._enter()
        for decision in self._core.decide(now):
            self._carry_out(decision)
        for row in self._after_rank:
            self._watch_rank(row)
        for row in self._after_due:
            at = self._core.next_due_ms(row)
            if at < k.NEVER_MS:
                heapq.heappush(self._timers, (at, _DUE, row, 0))
        return self._effects

    def _tell(self, stimulus: core.Stimulus) -> None:
        self._core.take(self._now, stimulus)

    # --- stimuli

    def _check(self, stimuli: Sequence[Stimulus]) -> None:
        coming = {s.job.job_id for s in stimuli if isinstance(s, Submit)}
        for s in stimuli:
            if isinstance(s, Submit) and s.job.job_id in self.jobs:
                raise UnknownJobError(f"job {s.job.job_id!r} has been submitted before")
            if isinstance(s, Cancel | Exited | LeaseLost) and s.job_id not in self.jobs and s.job_id not in coming:
                raise UnknownJobError(f"no job {s.job_id!r}")
            if isinstance(s, NodeUp | NodeDown | NodeSilent):
                self.node_index(s.node)
            if isinstance(s, Cordon | Drain | Uncordon):
                self._nodes_at(s.node, s.site)
            if isinstance(s, CellsReleased) and self.fleet.sites[self.site_index(s.site)].cells is None:
                raise InputError(f"{s.site} is no cell site that says by the hour what it releases")
        joining = [s.site for s in stimuli if isinstance(s, SiteAdded)]
        if joining:
            self._grown(joining)

    def _take(self, stimulus: Stimulus) -> None:
        match stimulus:
            case Submit(request):
                self._submit(request)
            case Cancel(job_id):
                self._cancel(job_id)
            case Exited(job_id, attempt, exit_code):
                self._exited(job_id, attempt, exit_code)
            case LeaseLost(job_id, attempt, refused):
                job = self.jobs[job_id]
                if job.attempt == attempt and job.state in (ADMITTED, COMPLETING):
                    if refused:
                        self._refused(job, refused)
                    else:
                        self._over(job_id, "lost")
            case NodeUp(name):
                if not self.is_left_alone(name, self._now + self.start_ms) and self.may_open(name):
                    self._tell(core.NodeUp(self._node[name]))
            case NodeDown(name, is_failure):
                self._node_down(self._node[name], is_failure)
            case NodeSilent(name):
                self._tell(core.NodeSilent(self._node[name]))
            case Cordon(node, site):
                self._close(node, site, CORDONED)
            case Drain(node, site, notice_ms):
                notice = notice_ms if notice_ms >= 0 else int(self._core.state.g[0]["own_notice_ms"])
                for n in self._close(node, site, DRAINING):
                    self._tell(core.NodeDrained(n, notice))
            case Uncordon(node, site):
                # What it is then, its agent knows: it takes work when it is offered next.
                if node:
                    self._closures.open_node(self.node_index(node))
                else:
                    self._closures.open_site(self.site_index(site))
            case CellsReleased(site, lent_milli, until_ms):
                self._closures.release(self.site_index(site), lent_milli, until_ms - self.start_ms)
                self._turn_cells()
            case SiteAdded(site):
                self._add_sites([site])
            case Tick():
                pass
            case _:
                assert_never(stimulus)

    def _nodes_at(self, node: str, site: str) -> list[int]:
        return [self.node_index(node)] if node else self._closures.nodes_of(self.site_index(site))

    def _close(self, node: str, site: str, how: str) -> list[int]:
        """Close a node or a site; the nodes that stand there."""
        if node:
            self._closures.close_node(self.node_index(node), how)
        else:
            self._closures.close_site(self.site_index(site), how)
        nodes = self._nodes_at(node, site)
        for n in nodes:
            self._tell(core.NodeClosed(n))
        return nodes

    def _submit(self, request: JobRequest) -> None:
        job = LiveJob(request)
        self.jobs[request.job_id] = job
        if request.array_id:
            self._arrays[request.array_id].append(request.job_id)
        for before, when in request.depends_on:
            for name in self._arrays.get(before, [before]):
                other = self.jobs.get(name)
                if other is None or (other.state == ENDED and not _is_met(when, other.outcome)):
                    self._end(request.job_id, "dependency")
                    return
                if other.state != ENDED:
                    job.unmet.add(name)
                    self._children[name].append(request.job_id)
        if not job.unmet:
            self._ready(request.job_id)

    def _ready(self, job_id: str) -> None:
        """Nothing it waits for is left: its array's limit and its moment come next."""
        request = self.jobs[job_id].request
        if request.array_limit and self._array_run[request.array_id] >= request.array_limit:
            self._array_wait[request.array_id].append(job_id)
            return
        if request.array_limit:
            self._array_run[request.array_id] += 1
        begin = request.begin_ms - self.start_ms
        if request.begin_ms >= 0 and not request.is_reserved and begin > self._now:
            heapq.heappush(self._timers, (begin, _BEGIN, len(self._begins), 0))
            self._begins.append(job_id)
            return
        self._fresh.append(job_id)

    def _enter(self) -> None:
        """Make jobs known to the policy, all of this moment at once."""
        fresh, self._fresh = [job_id for job_id in self._fresh if self.jobs[job_id].state != ENDED], []
        requests = [self.jobs[job_id].request for job_id in fresh]
        first = self._core.add(self._trace(requests))
        state = self._core.state
        for i, job_id in enumerate(fresh):
            row = first + i
            self._by_row.append(job_id)
            self.jobs[job_id].row = row
            if state.cls[int(state.job[row]["cls"])]["num_pools"] == 0:
                self._end(job_id, "impossible")
            else:
                self._tell(core.Submitted(row))
                if self.jobs[job_id].request.is_reserved:
                    self._after_due.append(row)

    def _trace(self, requests: Sequence[JobRequest]) -> Trace:
        """Requests as the policy's columns."""
        members, projects, users = (sorted({getattr(r, name) for r in requests}) for name in ("member", "project", "user"))
        types = [t.name for t in self.fleet.gpu_types]
        sites = {s.name: i for i, s in enumerate(self.fleet.sites)}
        jobs = make_jobs(len(requests))
        for i, r in enumerate(requests):
            row = jobs[i]
            row["submit_ms"] = self._now
            row["limit_ms"] = r.limit_ms
            row["checkpoint_ms"], row["grace_ms"] = r.checkpoint_ms, r.grace_ms
            row["cpu_milli"], row["mem_mib"], row["net_mbps"] = r.cpu_milli, r.mem_mib, r.net_mbps
            row["begin_ms"] = r.begin_ms - self.start_ms if r.is_reserved else UNKNOWN
            known = {name.lower(): b for b, name in enumerate(types)}
            row["type_mask"] = sum(1 << known[t.lower()] for t in set(r.gpu_types) if t.lower() in known)
            row["site_mask"] = sum(1 << sites[s] for s in set(r.sites) if s in sites)
            row["member"], row["project"] = members.index(r.member), projects.index(r.project)
            row["user"] = users.index(r.user)
            # An elastic range is the twin's so far: a running process is not given other GPUs here.
            row["num_gpus"] = row["min_gpus"] = row["max_gpus"] = r.gpus
            row["gpu_milli"], row["gpus_per_node"] = r.gpu_milli, r.gpus_per_node
            row["priority"], row["topology"] = r.priority, _TOPOLOGY[r.topology]
        return Trace(jobs, [r.job_id for r in requests], members, projects, users, types, "live")

    def _cancel(self, job_id: str) -> None:
        job = self.jobs[job_id]
        if job.state == ENDED:
            return
        if job.state in (ADMITTED, COMPLETING):
            if not job.is_cancelled:
                job.is_cancelled = True
                self._change(job_id, COMPLETING)
                self._effects.append(Stop(job_id, job.attempt, "cancelled"))
            return
        if job.row >= 0:
            self._tell(core.Cancelled(job.row))
        self._end(job_id, "cancelled")

    def _refused(self, job: LiveJob, why: str) -> None:
        """An agent did not start it: it leaves the queue for a while, and so does a node that refuses one after another."""
        job_id, nodes = job.request.job_id, [node for node, _, _ in self._core.leases(job.row)]
        if job.is_cancelled:
            self._finish(job_id, "cancelled", "refused")
            return
        self._over(job_id, "refused")
        self._tell(core.Cancelled(job.row))
        job.row = -1
        pause = min(REFUSED_FIRST_MS << min(job.refusals, 20), REFUSED_LAST_MS)
        job.refusals, job.refused_why, job.retry_ms = job.refusals + 1, why, self._now + pause
        heapq.heappush(self._timers, (job.retry_ms, _BEGIN, len(self._begins), 0))
        self._begins.append(job_id)
        # Of a gang's nodes it is not known which one refused.
        if len(nodes) == 1:
            self._blame(nodes[0], job_id)

    def _blame(self, node: int, job_id: str) -> None:
        until = self._closures.blame(node, job_id, self._now)
        if until is not None:
            self._tell(core.NodeSilent(node))
            self._effects.append(Quarantined(self._names[node], until + self.start_ms))

    def _exited(self, job_id: str, attempt: int, exit_code: int) -> None:
        job = self.jobs[job_id]
        if job.attempt != attempt or job.state not in (ADMITTED, COMPLETING):
            return
        job.refusals, job.refused_why, job.retry_ms = 0, "", -1
        for node, _, _ in self._core.leases(job.row):
            self._closures.trust(node, self._now)
        ran = self._now - job.started_ms
        is_revoked = int(self._core.state.job[job.row]["state"]) == k.REVOKING
        if job.is_cancelled:
            self._finish(job_id, "cancelled")
        elif exit_code == 0:
            self._finish(job_id, "succeeded")
        elif is_revoked:
            self._over(job_id, "vacated")
        elif 0 <= job.request.limit_ms <= ran:
            self._finish(job_id, "timeout")
        elif job.failures < job.request.retries:
            job.failures += 1
            self._over(job_id, "failed")
        else:
            self._finish(job_id, "failed")

    def _finish(self, job_id: str, outcome: str, cause: str = "exited") -> None:
        """An attempt's end is its job's."""
        job = self.jobs[job_id]
        self._release(job, cause)
        self._tell(core.Ended(job.row))
        self._end(job_id, outcome)

    def _over(self, job_id: str, cause: str) -> None:
        """An attempt is over and its job is not: it waits for the next one."""
        job = self.jobs[job_id]
        if job.is_cancelled:
            self._finish(job_id, "cancelled")
            return
        self._release(job, cause)
        self._tell(core.Vacated(job.row) if cause == "vacated" else core.Failed(job.row))
        self._change(job_id, PENDING)

    def _release(self, job: LiveJob, cause: str) -> None:
        rec = self._core.state.job[job.row]
        open_ms = self._now - int(rec["since_ms"])
        run = int(rec["run_ms"]) + open_ms - job.banked_ms[0]
        borrowed = int(rec["borrowed_ms"]) + (open_ms if rec["is_borrowed"] else 0) - job.banked_ms[1]
        self._effects.append(Released(job.request.job_id, job.attempt, run, borrowed, cause))

    def _node_down(self, node: int, is_failure: bool) -> None:
        """Gangs that stand on the node end there; their other ranks must stop too."""
        s = self._core.state
        seg = int(s.node[node]["seg"])
        rows = set()
        while seg >= 0:
            rows.add(int(s.seg[seg]["job"]))
            seg = int(s.seg[seg]["node_next"])
        self._tell(core.NodeDown(node, is_failure))
        for row in sorted(rows):
            job_id = self._by_row[row]
            job = self.jobs[job_id]
            self._release(job, "lost")
            self._effects.append(Stop(job_id, job.attempt, "node lost"))
            if job.is_cancelled:
                self._tell(core.Cancelled(row))
                self._end(job_id, "cancelled")
            else:
                self._change(job_id, PENDING)

    def _end(self, job_id: str, outcome: str) -> None:
        """A job is over; those that wait for it, or for its place in an array, go on."""
        job = self.jobs[job_id]
        job.state, job.outcome = ENDED, outcome
        self._effects.append(Changed(job_id, ENDED, job.attempt, outcome))
        for child in self._children.pop(job_id, ()):
            waiting = self.jobs[child]
            if waiting.state == ENDED or job_id not in waiting.unmet:
                continue
            waiting.unmet.discard(job_id)
            names = {name: when for before, when in waiting.request.depends_on
                     for name in self._arrays.get(before, [before])}  # fmt: skip
            if not _is_met(names.get(job_id, AFTER_OK), outcome):
                self._end(child, "dependency")
            elif not waiting.unmet:
                self._ready(child)
        array = job.request.array_id
        if job.request.array_limit and array:
            if job_id in self._array_wait[array]:
                self._array_wait[array].remove(job_id)
                return
            self._array_run[array] -= 1
            if self._array_wait[array]:
                self._ready(self._array_wait[array].popleft())

    def _change(self, job_id: str, state: str) -> None:
        job = self.jobs[job_id]
        job.state = state
        self._effects.append(Changed(job_id, state, job.attempt))

    # --- timers

    def _take_timers(self) -> None:
        state = self._core.state
        while self._timers and self._timers[0][0] <= self._now:
            _, kind, who, version = heapq.heappop(self._timers)
            if kind == _TERMS:
                self._tell(core.TermsDue())
            elif kind == _RELEASE:
                self._tell(core.NodeUp(who, is_release=True))
                if not self.may_open(self._names[who]):
                    self._tell(core.NodeClosed(who))
            elif kind == _CELLS:
                self._turn_cells()
            elif kind == _BEGIN:
                job_id = self._begins[who]
                if self.jobs[job_id].state != ENDED:
                    self._fresh.append(job_id)
            elif kind == _DUE:
                if state.job[who]["state"] == k.RESERVED:
                    self._tell(core.ReservationDue(who))
                    self._after_due.append(who)
            elif kind == _RANK:
                rec = state.job[who]
                if rec["state"] == k.RUNNING and int(rec["version"]) == version:
                    self._tell(core.RankDue(who))
                    self._after_rank.append(who)
            elif kind == _LIMIT:
                job = self.jobs[self._by_row[who]]
                if job.attempt == version and job.state in (ADMITTED, COMPLETING):
                    self._effects.append(Stop(job.request.job_id, job.attempt, "time limit"))

    # --- decisions

    def _carry_out(self, d: core.Decision) -> None:
        match d.kind:
            case DecisionKind.START:
                self._start(d.job, d.pool)
            case DecisionKind.VACATE:
                job_id = self._by_row[d.job]
                job = self.jobs[job_id]
                self._change(job_id, COMPLETING)
                is_radio = any(n in self._closures.withheld for n, _, _ in self._core.leases(d.job))
                cause = self._by_row[d.cause] if d.cause >= 0 else RADIO if is_radio else DRAINED
                self._effects.append(Vacate(job_id, job.attempt, d.at_ms + self.start_ms, cause))
            case DecisionKind.HOLD:
                self.jobs[self._by_row[d.job]].promised_ms = d.at_ms + self.start_ms
                self._effects.append(Held(self._by_row[d.job], d.at_ms + self.start_ms))
            case DecisionKind.QUARANTINE:
                self._effects.append(Quarantined(self._names[d.node], d.at_ms + self.start_ms))
                heapq.heappush(self._timers, (d.at_ms, _RELEASE, d.node, 0))
            case DecisionKind.SHRINK | DecisionKind.GROW:
                raise AssertionError("live jobs are rigid")
            case _:
                assert_never(d.kind)

    def _start(self, row: int, p: int) -> None:
        job_id = self._by_row[row]
        job = self.jobs[job_id]
        built = self._core.built
        rec, pool = built.state.job[row], built.state.pool[p]
        job.attempt += 1
        job.started_ms = self._now
        job.banked_ms = (int(rec["run_ms"]), int(rec["borrowed_ms"]))
        self._fence += 1
        member = int(built.state.cls[int(rec["cls"])]["member"])
        agreement = int(built.state.mp[member, p]["agreement"])
        is_borrowed = bool(rec["is_borrowed"])
        placements = tuple(
            Placement(self._names[n], tuple(i for i in range(k.GPUS_MAX) if mask >> i & 1), milli)
            for n, mask, milli in self._core.leases(row)
        )
        self._change(job_id, ADMITTED)
        self._effects.append(
            Start(
                job_id, job.attempt, self._fence, built.terms.pools[p].name, self.fleet.sites[int(pool["site"])].name,
                built.terms.members[int(pool["home"])].name, self.fleet.gpu_types[max(int(pool["gpu_type"]), 0)].name,
                placements, is_borrowed,
                built.terms.agreements[agreement].name if is_borrowed and agreement >= 0 else "", job.promised_ms,
            )
        )  # fmt: skip
        job.promised_ms = -1
        if job.request.limit_ms >= 0:
            late = self._now + job.request.limit_ms + job.request.grace_ms
            heapq.heappush(self._timers, (late, _LIMIT, row, job.attempt))
        self._watch_rank(row)

    def _watch_rank(self, row: int) -> None:
        if self._core.state.job[row]["state"] != k.RUNNING:
            return
        at = self._core.next_rank_ms(row)
        if at < k.NEVER_MS:
            heapq.heappush(self._timers, (at, _RANK, row, int(self._core.state.job[row]["version"])))


def _names_of(fleet: Fleet) -> list[str]:
    """Names of nodes that have none: their cluster's, and their number in it."""
    names, seen = [], [0] * max(len(fleet.clusters), 1)
    for cluster in fleet.nodes["cluster"].tolist():
        names.append(f"{fleet.clusters[cluster]}-{seen[cluster]}")
        seen[cluster] += 1
    return names


def _is_met(when: str, outcome: str) -> bool:
    """Whether an outcome lets a job start that waits so."""
    if when == AFTER_ANY:
        return True
    return (outcome == "succeeded") == (when == AFTER_OK)
