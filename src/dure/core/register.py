"""Jobs as the policy knows them: their classes, the pools that each may use, what they ask of a node, their history.

All tables grow, so that the live core takes in jobs as they come and the twin all at once, by the same code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.core.eligible import PoolFacts
from dure.model.jobs import GRACE_MS, Trace, make_jobs
from dure.model.terms import Terms
from dure.policy.config import CLAIRVOYANT, Policy
from dure.policy.kernels import layout as k
from dure.policy.kernels.arrays import aligned_zeros
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.expected import SEEN_MIN, see_class
from dure.policy.kernels.layout import State
from dure.policy.kernels.place import least_part
from dure.policy.kernels.placement import FULL_MILLI

#: Scores that are kept at most, 16 bytes each; shapes beyond are placed by best fit.
SCORES_MAX = 1 << 23

_CLASS_KEYS = (
    "member", "project", "num_gpus", "min_gpus", "max_gpus", "gpus_per_node", "gpu_milli", "cpu_milli", "mem_mib",
    "net_mbps", "type_mask", "site_mask", "priority", "topology", "profile", "grace_ms",
)  # fmt: skip
_JOB_NONE = (
    "first_start_ms", "claim_ms", "claim_from_ms", "end_ms", "seg", "hold", "pool", "child", "sibling",
    "over_prev", "over_next", "cause", "like_next", "rank_claim_ms",
)  # fmt: skip
#: Tables that grow with what comes; all others are as large as the fleet and the terms make them.
GROWING = frozenset({"job", "cls", "cls_pool", "need", "came", "shape", "score", "hist", "project", "seg"})
#: User of jobs of which no user is known.
NOBODY = "default"
#: Any GPU type, as a mask that is exact as a float too.
_EVERY_TYPE = (1 << 50) - 1


class Register:
    """The growing tables of a state and the dictionaries that find their rows.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Every array of the state; those of jobs, classes and histories empty.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]], facts: PoolFacts, terms: Terms, policy: Policy) -> None:
        self._arrays = arrays
        self._facts, self._policy = facts, policy
        self._member = {m.name: i for i, m in enumerate(terms.members)}
        self._class: dict[bytes, int] = {}
        self._graces: list[int] = []
        self._shape: dict[bytes, int] = {}
        self._history: dict[int, int] = {}
        self._who: dict[tuple[int, str], int] = {}
        self._project: dict[str, int] = {}
        self._len = {"job": 0, "cls": 0, "cls_pool": 0, "shape": 0, "hist": 1, "project": 0, "seg": 0}
        self._num_small = 0
        self.state = State(**arrays)

    def queue_of(self, trace: Trace) -> NDArray[Any]:
        """Queue (index of a member of the terms) of each of a trace's members."""
        if not self._policy.is_shares and self._policy.order != k.FAIR:
            return np.zeros(len(trace.members), np.int32)
        return np.array([self._member[name] for name in trace.members], np.int32)

    def add(self, trace: Trace) -> int:
        """Take in jobs that may be submitted from now on; the index of the first.

        Indexes of one job table follow each other over all calls; what is known already keeps its own.
        """
        jobs, n = trace.jobs, len(trace.jobs)
        first = self._len["job"]
        cls_of = self._classes(trace)
        job = self._room("job", n, first)
        for name, column in (("submit_ms", "submit_ms"), ("ckpt_ms", "checkpoint_ms"), ("limit_ms", "limit_ms"),
                             ("begin_ms", "begin_ms")):  # fmt: skip
            job[name] = jobs[column]
        job["oracle_ms"] = jobs["duration_ms"] if self._policy.order in CLAIRVOYANT else -1
        job["cls"] = cls_of
        for name in _JOB_NONE:
            job[name] = -1
        self._histories(trace, job)
        job["like_prev"] = k.NOT_CHAINED
        self._segments(jobs)
        self._arrays["g"]["num_jobs"] = self._len["job"]
        self.state = State(**self._arrays)
        return first

    def kept(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that it holds, for `core.snapshot`: what JSON can say, and the arrays themselves."""
        registers = {
            "class": [[key.hex(), row] for key, row in self._class.items()],
            "shape": [[key.hex(), row] for key, row in self._shape.items()],
            "history": list(self._history.items()),
            "who": [[of, name, row] for (of, name), row in self._who.items()],
            "project": self._project, "len": self._len, "num_small": self._num_small,
        }  # fmt: skip
        return registers, self._arrays

    def put_back(self, registers: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of `kept`. Arrays that do not grow are filled where they lie, as others know them there.

        Raises
        ------
        ValueError
            One that does not grow has another size.
        """
        for name, array in arrays.items():
            mine = self._arrays[name]
            if name in GROWING and mine.shape[1:] == array.shape[1:]:
                mine = self._arrays[name] = aligned_zeros(array.shape, array.dtype)
            if mine.shape != array.shape:
                raise ValueError(f"table {name!r} has size {array.shape}, not {mine.shape}")
            # Byte by byte: what lies between fields is kept too.
            mine.reshape(-1).view(np.uint8)[...] = array.reshape(-1).view(np.uint8)
        self._class = {bytes.fromhex(key): row for key, row in registers["class"]}
        self._graces = []
        self._shape = {bytes.fromhex(key): row for key, row in registers["shape"]}
        self._history = dict(registers["history"])
        self._who = {(of, name): row for of, name, row in registers["who"]}
        self._project, self._len = registers["project"], registers["len"]
        self._num_small = registers["num_small"]
        self.state = State(**self._arrays)

    def look_at_pools_anew(self, trace: Trace) -> None:
        """Find the pools of every class again: there are more. `trace` has the fleet's GPU types."""
        kinds = self._facts.types_of(trace)
        rows = np.frombuffer(b"".join(self._class), [(name, np.int64) for name in _CLASS_KEYS])
        cls = self._arrays["cls"]
        self._arrays["cls_pool"], self._len["cls_pool"] = np.zeros(0, np.int64), 0
        for c, row in enumerate(rows):
            mine = self._facts.pools_for(cls[c], int(row["type_mask"]), int(row["site_mask"]), int(row["grace_ms"]), kinds)
            first = self._len["cls_pool"]
            self._room("cls_pool", len(mine), first)[:] = mine
            cls[c]["pool0"], cls[c]["num_pools"] = first, len(mine)
        self._arrays["need"][: len(rows)] = k.NEED_NEVER
        fill_needs(State(**self._arrays), 0, len(rows))
        self._segments(make_jobs(0))
        self.state = State(**self._arrays)
        for c in np.flatnonzero(cls["is_seen"][: len(rows)]).tolist():
            # What has come of it makes scores worth their while in the new pools too.
            cls[c]["is_seen"] = 0
            see_class(self.state, c)

    def num_pools_for(self, trace: Trace) -> NDArray[Any]:
        """How many pools could ever take each of the jobs, which are not entered; 0: none."""
        table = _class_table(trace, self.queue_of(trace))
        kinds = self._facts.types_of(trace)
        rows, of = unique_rows(table)
        cls = _class_rows(rows)
        found = [len(self._facts.pools_for(cls[c], int(rows["type_mask"][c]), int(rows["site_mask"][c]), int(rows["grace_ms"][c]), kinds))
                 for c in range(len(rows))]  # fmt: skip
        counts: NDArray[Any] = np.array(found, np.int64)[of]
        return counts

    def grace_ms(self, c: int) -> int:
        """In which jobs of a class are gone when told to leave."""
        if len(self._graces) < len(self._class):
            rows = np.frombuffer(b"".join(self._class), [(name, np.int64) for name in _CLASS_KEYS])
            self._graces = rows["grace_ms"].tolist()
        return self._graces[c]

    def vacate_ms(self, p: int) -> int:
        """How soon what runs in a pool is gone at the latest when told to; beyond any number where there is no such bound."""
        return int(self._facts.vacate_ms[p])

    def _room(self, name: str, num: int, at: int) -> NDArray[Any]:
        """Rows [at, at + num) of a table, which grows to hold them: exactly the first time, then by doubling."""
        old = self._arrays[name]
        need = at + num
        if need > len(old):
            size = need if at <= 1 else max(need, 2 * len(old))
            grown = aligned_zeros((size, *old.shape[1:]), old.dtype)
            grown[: len(old)] = old
            self._arrays[name] = grown
        self._len[name] = max(self._len.get(name, 0), need)
        return self._arrays[name][at:need]

    def _classes(self, trace: Trace) -> NDArray[Any]:
        """Class of each job; new ones are entered with all that belongs to a class."""
        jobs = trace.jobs
        table = _class_table(trace, self.queue_of(trace))
        if self._policy.is_shares:
            table["project"] = self._projects(trace)[jobs["project"]] if len(jobs) else 0
        else:
            table["project"] = table["priority"] = 0
            self._projects(trace)
        rows, of = unique_rows(table)
        index = np.zeros(len(rows), np.int64)
        fresh = []
        for i, row in enumerate(rows):
            key = row.tobytes()
            if key not in self._class:
                self._class[key] = len(self._class)
                fresh.append(i)
            index[i] = self._class[key]
        if fresh:
            self._enter(rows[fresh], trace)
        found: NDArray[Any] = index[of].astype(np.int32)
        return found

    def _projects(self, trace: Trace) -> NDArray[Any]:
        for name in trace.projects or ["default"]:
            if name not in self._project:
                self._project[name] = len(self._project)
                self._room("project", 1, self._project[name])["weight_milli"] = 1000
        return np.array([self._project[name] for name in trace.projects or ["default"]], np.int64)

    def _enter(self, rows: NDArray[Any], trace: Trace) -> None:
        """New classes, in order."""
        at, num = self._len["cls"], len(rows)
        cls = self._room("cls", num, at)
        cls[:] = _class_rows(rows)
        self._room("came", num, at)
        self._room("need", num, at)[:] = k.NEED_NEVER
        kinds = self._facts.types_of(trace)
        for c in range(num):
            mine = self._facts.pools_for(cls[c], int(rows["type_mask"][c]), int(rows["site_mask"][c]), int(rows["grace_ms"][c]), kinds)
            first = self._len["cls_pool"]
            self._room("cls_pool", len(mine), first)[:] = mine
            cls[c]["pool0"], cls[c]["num_pools"] = first, len(mine)
        self._shapes(cls, rows["type_mask"], kinds)
        fill_needs(State(**self._arrays), at, at + num)

    def _shapes(self, cls: NDArray[Any], type_mask: NDArray[Any], kinds: NDArray[Any]) -> None:
        """What the classes ask of one node."""
        asked = np.zeros(len(cls), [(name, np.int64) for name in ("cpu", "gpus", "milli", "mask")])
        most = self._facts.node_gpus_max
        asked["gpus"] = np.where(cls["per_node"] > 0, cls["per_node"], np.minimum(cls["num_gpus"], most))
        asked["cpu"] = cls["cpu_base"] + cls["cpu_each"] * asked["gpus"]
        asked["milli"] = np.where(cls["num_gpus"] > 0, cls["gpu_milli"], 0)
        is_scoring = False
        for c in range(len(cls)):
            allowed = [int(t) for b, t in enumerate(kinds) if int(type_mask[c]) >> b & 1 and t >= 0]
            is_bound = type_mask[c] and (kinds >= 0).any()
            asked["mask"][c] = sum(1 << t for t in allowed) if is_bound else _EVERY_TYPE
            key = asked[c].tobytes()
            if key not in self._shape:
                self._shape[key] = len(self._shape)
                row = self._room("shape", 1, self._shape[key])
                for name in ("cpu", "gpus", "milli", "mask"):
                    row[name] = asked[name][c]
                row["row"] = -1
            cls[c]["shape"] = self._shape[key]
            mine = self._arrays["cls_pool"][int(cls[c]["pool0"]) : int(cls[c]["pool0"] + cls[c]["num_pools"])]
            is_scoring |= int(asked["milli"][c]) < FULL_MILLI
            is_scoring |= bool((cls[c]["cpu_each"] > self._arrays["pool"]["even_cpu"][mine]).any())
        score = self._arrays["score"]
        if is_scoring or len(score):
            num_nodes = score.shape[1]
            want = min(len(self._shape), max(SCORES_MAX // max(num_nodes, 1), 1))
            if want > len(score):
                self._room("score", want - len(score), len(score))
            if self._arrays["g"][0]["learn_at"] == k.NEVER_MS and self._arrays["g"][0]["num_target"] == 0:
                self._arrays["g"]["learn_at"] = SEEN_MIN

    def _histories(self, trace: Trace, job: NDArray[Any]) -> None:
        """Rows of the run-time history: 0 all jobs; (member, size); (user, size) where users are told apart."""
        jobs = trace.jobs
        size = np.ceil(np.log2(np.maximum(jobs["num_gpus"], 1))).astype(np.int64)
        if len(jobs) == 0:
            return
        member = np.array([self._who.setdefault((0, name), len(self._who)) for name in trace.members], np.int64)
        user = np.array([self._who.setdefault((1, name), len(self._who)) for name in trace.users], np.int64)
        job["key1"] = job["key2"] = self._keys(member[jobs["member"]], size)
        is_named = np.array([name != NOBODY for name in trace.users])[jobs["user"]]
        job["key1"][is_named] = self._keys(user[jobs["user"][is_named]], size[is_named])

    def _keys(self, who: NDArray[Any], size: NDArray[Any]) -> NDArray[Any]:
        pairs, of = np.unique(who * 64 + size, return_inverse=True)
        rows = np.zeros(len(pairs), np.int64)
        for i, pair in enumerate(pairs):
            if int(pair) not in self._history:
                self._history[int(pair)] = self._len["hist"]
                self._room("hist", 1, self._len["hist"])
            rows[i] = self._history[int(pair)]
        return rows[of]

    def _segments(self, jobs: NDArray[Any]) -> None:
        """Room for the segments: one a GPU, and one for each job that takes less than a GPU or none."""
        self._num_small += int(((jobs["gpu_milli"] < FULL_MILLI) | (jobs["num_gpus"] == 0)).sum())
        need = self._facts.num_gpus + self._num_small + 16
        at = self._len["seg"]
        if need <= at:
            return
        self._room("seg", need - at, at)
        seg, g = self._arrays["seg"], self._arrays["g"]
        new = np.arange(at, len(seg))
        seg["next"][new] = new + 1
        seg["next"][-1] = g[0]["free_seg"] if at else -1
        g["free_seg"] = at
        self._len["seg"] = len(seg)


def _class_table(trace: Trace, queue: NDArray[Any]) -> NDArray[Any]:
    """What makes a class, of each job; the project is the trace's."""
    jobs = trace.jobs
    table = np.zeros(len(jobs), [(name, np.int64) for name in _CLASS_KEYS])
    for name in _CLASS_KEYS:
        table[name] = jobs[name].view(np.int64) if jobs[name].dtype == np.uint64 else jobs[name]
    table["member"] = queue[jobs["member"]] if len(jobs) else 0
    table["grace_ms"][jobs["grace_ms"] < 0] = GRACE_MS
    return table


def _class_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of CLS from what makes a class; its pools and its shape are still to be found."""
    cls = np.zeros(len(rows), k.CLS)
    for name in ("member", "project", "num_gpus", "min_gpus", "max_gpus", "gpu_milli", "priority", "topology"):
        cls[name] = rows[name]
    gpus = rows["num_gpus"]
    for short, name in (("cpu", "cpu_milli"), ("mem", "mem_mib"), ("net", "net_mbps")):
        cls[f"{short}_base"] = np.where(gpus == 0, rows[name], 0)
        cls[f"{short}_each"] = np.where(gpus > 0, rows[name] // np.maximum(gpus, 1), 0)
    cls["speed"] = rows["profile"] + 1
    cls["per_node"] = rows["gpus_per_node"]
    cls["root"] = cls["prev"] = cls["next"] = -1
    return cls


@kernel
def fill_needs(S: State, first: int, stop: int) -> None:
    """Least free GPUs on a node that each class wants in each of its pools."""
    for c in range(first, stop):
        for i in range(S.cls[c].pool0, S.cls[c].pool0 + S.cls[c].num_pools):
            S.need[c, S.cls_pool[i]] = least_part(S, c, S.cls_pool[i])


def unique_rows(table: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distinct rows in order of first appearance, and the row of each entry; by a 64-bit hash, checked."""
    mix = np.zeros(len(table), np.uint64)
    with np.errstate(over="ignore"):
        for name in table.dtype.names or ():
            mix = (mix ^ table[name].view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            mix ^= mix >> np.uint64(29)
    _, first, inverse = np.unique(mix, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows, of = table[first[order]], place[inverse]
    if not (rows[of] == table).all():
        rows, of = np.unique(table, return_inverse=True)
    return rows, of
