"""An owner takes its GPUs back on the reference alliance: how long the deciding takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dure.core.step import Core, DecisionKind, Submitted
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import NO_AGREEMENT
from dure.policy.config import named_policy
from dure.policy.kernels.layout import NEVER_MS
from dure.twin.inputs import reference_alliance

FILL, BATCH = 8, 20_000


def lend_everything(terms, num_gpus):
    """The shipped agreements lend far less than 50,000 GPUs of one owner: here all is lent to all."""
    agreements = [replace(a, limit_gpus=num_gpus, start_ms=0, end_ms=NEVER_MS) for a in terms.agreements]
    agreement = terms.agreement.copy()
    for p, pool in enumerate(terms.pools):
        of_home = [a for a, made in enumerate(agreements) if made.lender == pool.home]
        if of_home:
            able = (agreement[:, p] == NO_AGREEMENT) & (terms.guarantee_gpus[:, p] == 0)
            agreement[able, p] = of_home[0]
    return replace(terms, agreements=agreements, agreement=agreement)


def lent_out(num_gpus, gang):
    """The alliance with every GPU that may be lent in the hands of others, and an owner's jobs about to come."""
    fleet, terms = reference_alliance(260_000)
    terms = lend_everything(terms, fleet.num_gpus)
    owner = int(np.argmax((terms.guarantee_gpus * (terms.guarantee_gpus >= gang)).sum(axis=1)))
    others = [m for m in range(len(terms.members)) if m != owner]
    num_fill = fleet.num_gpus // FILL * 2
    num_claims = num_gpus // gang
    jobs = make_jobs(num_fill + num_claims)
    jobs["member"] = np.append(np.resize(others, num_fill), np.full(num_claims, owner))
    jobs["num_gpus"] = np.append(np.full(num_fill, FILL), np.full(num_claims, gang))
    jobs["min_gpus"] = jobs["max_gpus"] = jobs["num_gpus"]
    jobs["duration_ms"] = 86_400_000
    jobs["checkpoint_ms"] = 600_000
    names = [m.name for m in terms.members]
    trace = Trace(jobs, list(map(str, range(len(jobs)))), names, ["p"], ["u"], [], "reclaim benchmark")
    core = Core(fleet, terms, trace, named_policy("dure"))
    for first in range(0, num_fill, BATCH):
        core.step(first, [Submitted(j) for j in range(first, min(first + BATCH, num_fill)) if j not in core.never])
    claims = [Submitted(j) for j in range(num_fill, num_fill + num_claims) if j not in core.never]
    return core, claims


@pytest.mark.parametrize(("num_gpus", "gang"), [(4_000, 4_000), (4_000, 8), (50_000, 1_000), (50_000, 64), (50_000, 8)])
def test_reclaim(benchmark, num_gpus, gang):
    """Limits: 0.1 s for 4,000 GPUs, 1 s for 50,000."""
    core, claims = lent_out(num_gpus, gang)
    assert len(claims) == num_gpus // gang
    decisions = benchmark.pedantic(lambda: core.step(10_000_000, claims), rounds=1, iterations=1)
    kinds = [d.kind for d in decisions]
    benchmark.extra_info.update(
        gpus_started=sum(d.gpus for d in decisions if d.kind == DecisionKind.START),
        gpus_vacated=sum(d.gpus for d in decisions if d.kind == DecisionKind.VACATE),
        vacated=kinds.count(DecisionKind.VACATE), decisions=len(decisions),
    )  # fmt: skip
    assert benchmark.extra_info["gpus_vacated"] > num_gpus // 2
