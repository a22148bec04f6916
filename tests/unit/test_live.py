"""The live alliance: what a service tells it and what it answers; the same log gives the same answers."""

from __future__ import annotations

import contextlib
import json
import random

import pytest

from dure.core.explain import Explainer, NotWaitingError
from dure.core.live import Alliance, UnknownJobError
from dure.core.snapshot import FORMAT, SnapshotError, expand, pack, squeeze, unpack
from dure.model.alliance import load_alliance
from dure.model.alliance_build import build_fleet
from dure.model.events import (
    Cancel,
    Changed,
    Exited,
    JobRequest,
    LeaseLost,
    NodeDown,
    NodeUp,
    Quarantined,
    Released,
    Start,
    Stop,
    Submit,
    Tick,
    Vacate,
    effect_from_json,
    stimulus_from_json,
    to_json,
)
from dure.policy.config import named_policy

YAML = """
name: Small
start: 2026-01-01
own_notice: 60s
gpu_types:
  - {name: H200, speed_milli: 1000, idle_w: 280, busy_w: 1275, sleep_w: 40, mem_gib: 140}
members:
  - {name: owner, kind: public}
  - {name: guest, kind: company}
  - {name: other, kind: company}
sites:
  - name: hall
    clusters:
      - {name: hall, owner: owner, gpu_type: H200, gpus: 16, gpus_per_node: 8, nodes_per_rack: 2}
agreements:
  - {name: to-guest, lenders: [owner], borrowers: [guest, other], kind: LEND, limit_gpus: 16, notice: 2m, start: 2026-01-01}
"""
T0 = 1_800_000_000_000


def make() -> Alliance:
    alliance = load_alliance(YAML, "small.yaml")
    fleet, terms = build_fleet(alliance, alliance.start)
    return Alliance(fleet, terms, named_policy("dure"), T0)


def job(name: str, member: str = "owner", **more) -> JobRequest:
    return JobRequest(name, member, f"{member}/p", "u", **more)


def of(effects, kind):
    return [e for e in effects if isinstance(e, kind)]


def up(a: Alliance, at: int = T0) -> None:
    assert not a.apply(at, [NodeUp(a.node_name(0)), NodeUp(a.node_name(1))])


def test_nothing_starts_before_an_agent_offers_nodes() -> None:
    a = make()
    assert not of(a.apply(T0, [Submit(job("a"))]), Start)
    started = of(a.apply(T0 + 5, [NodeUp(a.node_name(1))]), Start)
    assert [(s.job_id, s.attempt, s.fence, s.placements[0].node) for s in started] == [("a", 1, 1, a.node_name(1))]


def test_a_job_runs_and_ends() -> None:
    a = make()
    up(a)
    (start,) = of(a.apply(T0 + 10, [Submit(job("a", gpus=2))]), Start)
    assert (start.owner, start.is_borrowed, start.gpu_type, start.site) == ("owner", False, "H200", "hall")
    assert len(start.placements[0].gpus) == 2
    done = a.apply(T0 + 1010, [Exited("a", 1, 0)])
    assert of(done, Released) == [Released("a", 1, 1000, 0, "exited")]
    assert of(done, Changed)[-1] == Changed("a", "ENDED", 1, "succeeded")
    assert not a.apply(T0 + 1020, [Exited("a", 1, 0)])  # told twice: nothing more


def test_lent_gpus_are_reclaimed_with_a_checkpoint_and_the_job_goes_on() -> None:
    a = make()
    up(a)
    guests = [Submit(job(f"g{i}", "guest", gpus=8, checkpoint_ms=60_000)) for i in range(2)]
    starts = of(a.apply(T0, guests), Start)
    assert [(s.is_borrowed, s.agreement, s.owner) for s in starts] == [(True, "to-guest", "owner")] * 2
    effects = a.apply(T0 + 90_000, [Submit(job("mine", gpus=8))])
    (leave,) = of(effects, Vacate)
    assert leave.cause == "mine"
    assert leave.deadline_ms == T0 + 90_000 + 30_000  # a checkpoint takes no longer than the policy allows
    effects = a.apply(T0 + 100_000, [Exited(leave.job_id, 1, 143)])
    assert of(effects, Released) == [Released(leave.job_id, 1, 100_000, 100_000, "vacated")]
    assert [s.job_id for s in of(effects, Start)] == ["mine"]
    effects = a.apply(T0 + 200_000, [Exited("mine", 1, 0)])
    assert [(s.job_id, s.attempt) for s in of(effects, Start)] == [(leave.job_id, 2)]


def test_a_refused_start_is_tried_again_later_and_later() -> None:
    a = make()
    up(a)
    at, pauses = T0, []
    (start,) = of(a.apply(at, [Submit(job("j"))]), Start)
    for number in range(1, 12):
        effects = a.apply(at + 5, [LeaseLost("j", number, "no space left")])
        assert of(effects, Released) == [Released("j", number, 5, 0, "refused")]
        assert of(effects, Changed)[-1] == Changed("j", "PENDING", number)
        assert not of(effects, Start)
        assert (a.jobs["j"].refusals, a.jobs["j"].refused_why) == (number, "no space left")
        due = T0 + a.jobs["j"].retry_ms
        assert T0 < (a.next_due_ms() or 0) <= due
        assert not of(a.apply(due - 1, [Tick()]), Start)
        (start,) = of(a.apply(due, [Tick()]), Start)
        assert (start.attempt, start.fence) == (number + 1, number + 1)
        pauses.append(due - at - 5)
        at = due
    assert pauses == [*(1000 * 2**n for n in range(9)), 300_000, 300_000]
    # One job alone is not its node's fault; and one that has run begins anew.
    assert not a.is_left_alone(a.node_name(0), at)
    a.apply(at + 10, [Exited("j", 12, 0)])
    assert (a.jobs["j"].outcome, a.jobs["j"].refusals) == ("succeeded", 0)


def test_a_refused_job_can_be_taken_back_while_it_waits_and_while_it_is_refused() -> None:
    a = make()
    up(a)
    a.apply(T0, [Submit(job("one")), Submit(job("two"))])
    a.apply(T0 + 1, [LeaseLost("one", 1, "full")])
    assert of(a.apply(T0 + 2, [Cancel("one")]), Changed) == [Changed("one", "ENDED", 1, "cancelled")]
    a.apply(T0 + 3, [Cancel("two")])
    assert of(a.apply(T0 + 4, [LeaseLost("two", 1, "full")]), Changed) == [Changed("two", "ENDED", 1, "cancelled")]
    assert not a.apply(T0 + 10_000, [Tick()])


def test_a_node_that_refuses_several_jobs_is_left_alone_for_a_while_and_what_runs_there_goes_on() -> None:
    a = make()
    a.apply(T0, [NodeUp(a.node_name(0))])
    jobs = [Submit(job(f"j{i}", gpus=2)) for i in range(4)]
    assert len(of(a.apply(T0, jobs), Start)) == 4
    lost = [LeaseLost(f"j{i}", 1, "full") for i in range(3)]
    effects = a.apply(T0 + 1_000, lost)
    assert of(effects, Quarantined) == [Quarantined(a.node_name(0), T0 + 61_000)]
    assert a.is_left_alone(a.node_name(0), T0 + 60_999)
    # An agent that goes on offering it changes nothing; the fourth job runs to its end.
    assert not of(a.apply(T0 + 30_000, [NodeUp(a.node_name(0))]), Start)
    assert of(a.apply(T0 + 31_000, [Exited("j3", 1, 0)]), Changed)[-1].outcome == "succeeded"
    assert a.is_left_alone(a.node_name(0), T0 + 60_999)
    assert len(of(a.apply(T0 + 61_000, [NodeUp(a.node_name(0))]), Start)) == 3
    # It refuses again: once is enough now, and it is left alone for twice as long.
    effects = a.apply(T0 + 62_000, [LeaseLost("j0", 2, "full")])
    assert of(effects, Quarantined) == [Quarantined(a.node_name(0), T0 + 182_000)]
    a.apply(T0 + 182_000, [NodeUp(a.node_name(0))])
    a.apply(T0 + 183_000, [Exited("j1", 2, 0)])
    # All is well again: one refusal more is nothing.
    assert not of(a.apply(T0 + 184_000, [LeaseLost("j2", 2, "full")]), Quarantined)


def test_who_waits_is_told_of_pools_that_are_up() -> None:
    """A pool none of whose nodes an agent has offered is as free of jobs as can be, and no help."""
    text = YAML.replace("agreements:", """  - name: barn
    clusters:
      - {name: barn, owner: owner, gpu_type: H200, gpus: 16, gpus_per_node: 8, nodes_per_rack: 2}
agreements:""")
    spec = load_alliance(text, "two.yaml")
    for site in ("hall", "barn"):
        a = Alliance(*build_fleet(spec, spec.start), named_policy("dure"), T0)
        a.apply(T0, [NodeUp(name) for name in a.nodes_of_site(site)])
        assert len(of(a.apply(T0, [Submit(job(f"j{i}", gpus=8)) for i in range(3)]), Start)) == 2
        found = Explainer(a.policy_core.built).explain(a.jobs["j2"].row)
        assert found.nearest is not None
        assert found.nearest.pool.startswith(site)
        assert found.nearest.holders == (("owner", 16_000, 0),)
        assert found.reason is Explainer(a.policy_core.built).reason(a.jobs["j2"].row) is found.nearest.reason


def test_of_a_gang_it_is_not_known_which_node_refused() -> None:
    a = make()
    up(a)
    at = T0
    for i in range(4):
        assert of(a.apply(at, [Submit(job(f"g{i}", gpus=16))]), Start)
        assert not of(a.apply(at + 1, [LeaseLost(f"g{i}", 1, "full"), Cancel(f"g{i}")]), Quarantined)
        at += 10


def test_retries_limits_and_losses() -> None:
    a = make()
    up(a)
    a.apply(T0, [Submit(job("r", retries=1)), Submit(job("t", limit_ms=5_000, grace_ms=1_000)), Submit(job("l"))])
    again = a.apply(T0 + 10, [Exited("r", 1, 3)])
    assert [(s.job_id, s.attempt) for s in of(again, Start)] == [("r", 2)]
    assert of(a.apply(T0 + 20, [Exited("r", 2, 3)]), Changed)[-1].outcome == "failed"
    lost = a.apply(T0 + 30, [LeaseLost("l", 1)])
    assert [(s.job_id, s.attempt) for s in of(lost, Start)] == [("l", 2)]
    assert a.next_due_ms() is not None
    assert of(a.apply(T0 + 6_000, [Tick()]), Stop) == [Stop("t", 1, "time limit")]
    assert of(a.apply(T0 + 6_100, [Exited("t", 1, 137)]), Changed)[-1].outcome == "timeout"


def test_a_cancelled_job_keeps_its_gpus_until_it_has_gone() -> None:
    a = make()
    up(a)
    a.apply(T0, [Submit(job("a", gpus=16)), Submit(job("b", gpus=16))])
    assert of(a.apply(T0 + 10, [Cancel("a")]), Stop) == [Stop("a", 1, "cancelled")]
    assert not of(a.apply(T0 + 20, [Tick()]), Start)
    effects = a.apply(T0 + 30, [Exited("a", 1, 143)])
    assert a.jobs["a"].outcome == "cancelled"
    assert [s.job_id for s in of(effects, Start)] == ["b"]
    a.apply(T0 + 40, [Submit(job("c"))])
    assert of(a.apply(T0 + 50, [Cancel("c")]), Changed) == [Changed("c", "ENDED", 0, "cancelled")]


def test_dependencies_and_arrays() -> None:
    a = make()
    up(a)
    batch = [
        Submit(job("x")),
        Submit(job("y", depends_on=(("x", "afterok"),))),
        Submit(job("n", depends_on=(("x", "afternotok"),))),
        *(Submit(job(f"t{i}", array_id="T", array_limit=2)) for i in range(5)),
        Submit(job("last", depends_on=(("T", "afterany"),))),
    ]
    starts = {s.job_id for s in of(a.apply(T0, batch), Start)}
    assert starts == {"x", "t0", "t1"}
    effects = a.apply(T0 + 10, [Exited("x", 1, 0)])
    assert {s.job_id for s in of(effects, Start)} == {"y"}
    assert a.jobs["n"].outcome == "dependency"
    running = 2
    for i in range(5):
        effects = a.apply(T0 + 20 + i, [Exited(f"t{i}", 1, i % 2)])
        running += len([s for s in of(effects, Start) if s.job_id.startswith("t")]) - 1
        assert running <= 2
    assert "last" in {s.job_id for s in of(effects, Start)}


def test_a_begin_is_waited_for_and_what_can_never_run_ends() -> None:
    a = make()
    up(a)
    assert a.could_run([job("b", gpus=16), job("x", gpus=17), job("y", gpu_types=("T4",))]) == [True, False, True]
    effects = a.apply(T0, [Submit(job("later", begin_ms=T0 + 60_000)), Submit(job("x", gpus=17))])
    assert not of(effects, Start)
    assert a.jobs["x"].outcome == "impossible"
    assert a.next_due_ms() == T0 + 60_000
    assert [s.job_id for s in of(a.apply(T0 + 60_000, [Tick()]), Start)] == ["later"]


def test_a_lost_node_stops_the_whole_gang_and_it_restarts() -> None:
    a = make()
    up(a)
    a.apply(T0, [Submit(job("gang", gpus=16, checkpoint_ms=1000))])
    effects = a.apply(T0 + 5_500, [NodeDown(a.node_name(0))])
    assert of(effects, Stop) == [Stop("gang", 1, "node lost")]
    assert of(effects, Released)[0].cause == "lost"
    assert not of(effects, Start)
    assert [(s.job_id, s.attempt) for s in of(a.apply(T0 + 9_000, [NodeUp(a.node_name(0))]), Start)] == [("gang", 2)]


def test_what_does_not_exist_is_refused_and_changes_nothing() -> None:
    a = make()
    up(a)
    for bad in (Cancel("q"), Exited("q", 1, 0), NodeUp("nowhere")):
        with pytest.raises(UnknownJobError):
            a.apply(T0, [Submit(job("a")), bad])
    assert not a.jobs


def history(seed: int) -> tuple[list, list, Alliance]:
    """Two hundred random steps and what came of them."""
    rng = random.Random(seed)
    a = make()
    log, answers, alive, num = [], [], {}, 0
    now = T0
    for _ in range(200):
        now += rng.choice([0, 1, 500, 60_000, 3_600_000]) - rng.choice([0, 0, 0, 2_000])
        batch = []
        for _ in range(rng.randint(0, 3)):
            what = rng.random()
            if what < 0.45:
                num += 1
                more = {"gpus": rng.choice([1, 1, 2, 8, 16]), "checkpoint_ms": rng.choice([0, 60_000])}
                if rng.random() < 0.2:
                    more |= {"gpus": 1, "gpu_milli": rng.choice([300, 500])}
                if num > 3 and rng.random() < 0.2:
                    more["depends_on"] = ((f"j{rng.randint(1, num - 1)}", rng.choice(["afterok", "afterany"])),)
                if rng.random() < 0.1:
                    more["limit_ms"] = 30_000
                batch.append(Submit(job(f"j{num}", rng.choice(["owner", "guest", "other"]), **more)))
            elif what < 0.8 and alive:
                name = rng.choice(sorted(alive))
                batch.append(Exited(name, alive[name], rng.choice([0, 0, 1, 143])))
            elif what < 0.85 and num:
                batch.append(Cancel(f"j{rng.randint(1, num)}"))
            elif what < 0.88 and alive:
                name = rng.choice(sorted(alive))
                batch.append(LeaseLost(name, alive[name], rng.choice(["", "full"])))
            elif what < 0.95:
                batch.append(NodeUp(a.node_name(rng.randint(0, 1))))
            else:
                batch.append(NodeDown(a.node_name(rng.randint(0, 1))))
        batch = [s for s in batch if not isinstance(s, Cancel) or s.job_id in a.jobs or any(
            isinstance(t, Submit) and t.job.job_id == s.job_id for t in batch)]  # fmt: skip
        effects = a.apply(now, batch or [Tick()])
        for e in effects:
            if isinstance(e, Start):
                alive[e.job_id] = e.attempt
            elif isinstance(e, Released):
                alive.pop(e.job_id)
        log.append((now, [json.dumps(to_json(s)) for s in batch or [Tick()]]))
        answers.append([json.dumps(to_json(e)) for e in effects])
    return log, answers, a


@pytest.mark.parametrize("seed", range(12))
def test_a_log_replays_to_the_same_answers_also_from_a_snapshot(seed: int) -> None:
    log, answers, _ = history(seed)
    again = make()
    kept = b""
    for i, (at, stimuli) in enumerate(log):
        if i == 100:
            kept = pack(again)
        effects = again.apply(at, [stimulus_from_json(json.loads(s)) for s in stimuli])
        assert [json.dumps(to_json(e)) for e in effects] == answers[i], i
        assert [effect_from_json(json.loads(e)) for e in answers[i]] == effects
    later = make()
    unpack(later, expand(squeeze(kept)))
    assert pack(later) == kept
    for i, (at, stimuli) in list(enumerate(log))[100:]:
        effects = later.apply(at, [stimulus_from_json(json.loads(s)) for s in stimuli])
        assert [json.dumps(to_json(e)) for e in effects] == answers[i], i
    assert pack(later) == pack(again)


def test_the_bytes_of_a_state_are_the_same_by_whatever_way_it_was_come_to() -> None:
    """Also where somebody has asked why jobs wait, and where what was refused or waits for others is in them."""
    one, other = make(), make()
    for a in (one, other):
        up(a)
        a.apply(T0, [Submit(job(f"j{i}", gpus=16, array_id="a", array_limit=2)) for i in range(4)])
        a.apply(T0 + 5, [LeaseLost("j0", 1, "full"), Submit(job("after", depends_on=(("j1", "afterok"),)))])
        a.apply(T0 + 6, [Submit(job("later", begin_ms=T0 + 90_000)), Submit(job("small", "guest", gpus=1, gpu_milli=500))])
        for row in range(int(a.policy_core.state.g[0]["num_jobs"]) if a is one else 0):
            with contextlib.suppress(NotWaitingError):
                Explainer(a.policy_core.built).explain(row)
    assert pack(one) == pack(other)
    third = make()
    unpack(third, pack(one))
    for at in range(T0 + 1_000, T0 + 200_000, 7_000):
        answers = [a.apply(at, [Tick()]) for a in (one, other, third)]
        assert answers[0] == answers[1] == answers[2]
    assert third.jobs == one.jobs
    assert pack(third) == pack(one)


def test_bytes_that_are_no_snapshot_of_this_alliance_are_refused() -> None:
    a = make()
    up(a)
    good = pack(a)
    text = YAML.replace("gpus: 16, gpus_per_node: 8", "gpus: 32, gpus_per_node: 8")
    spec = load_alliance(text, "larger.yaml")
    larger = Alliance(*build_fleet(spec, spec.start), named_policy("dure"), T0)
    up(larger)
    bad = [b"", good[:7], good[:100], good[:-1], good + b"x", good.replace(f'"format":{FORMAT}'.encode(), b'"format":9'),
           good.replace(b'["state",', b'["stute",'), good.replace(b'"timers"', b'"tamers"'), pack(larger)]  # fmt: skip
    for body in bad:
        with pytest.raises(SnapshotError):
            unpack(make(), body)
    for kept in (b"", b"x", squeeze(good)[:-4]):
        with pytest.raises(SnapshotError):
            expand(kept)



@pytest.mark.parametrize("seed", range(12, 20))
def test_no_gpu_is_leased_twice_and_every_attempt_is_released_once(seed: int) -> None:
    _, answers, a = history(seed)
    held: dict[tuple[str, int], float] = {}
    open_leases: dict[tuple[str, int], Start] = {}
    fence = 0
    for step in answers:
        effects = [effect_from_json(json.loads(e)) for e in step]
        for e in effects:
            if isinstance(e, Released):
                for part in open_leases.pop((e.job_id, e.attempt)).placements:
                    for gpu in part.gpus:
                        held[part.node, gpu] -= part.gpu_milli
        for e in effects:
            if isinstance(e, Start):
                assert e.fence == fence + 1
                fence = e.fence
                assert (e.job_id, e.attempt) not in open_leases
                open_leases[e.job_id, e.attempt] = e
                for part in e.placements:
                    for gpu in part.gpus:
                        held[part.node, gpu] = held.get((part.node, gpu), 0) + part.gpu_milli
                        assert held[part.node, gpu] <= 1000
    ended = [j for j in a.jobs.values() if j.state == "ENDED"]
    assert len(ended) > 10
    assert all(j.outcome for j in ended)
