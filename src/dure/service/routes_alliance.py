"""Routes of what everybody shares: members, sites, nodes, usage; health and metrics."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Path, Query, Response

from dure.model.alliance_growth import load_site
from dure.model.errors import InputError
from dure.model.events import Cordon, Drain, Uncordon
from dure.service import commands, examples
from dure.service.access import Caller, KnownQuery, Running, carry_out, need, need_state
from dure.service.app import described
from dure.service.errors import following, refused_input
from dure.service.schemas import (
    AgentView,
    Health,
    MemberView,
    NewSite,
    NodeView,
    SiteJoined,
    SiteView,
    TokenMade,
    Usage,
)
from dure.service.views import iso

router = APIRouter(tags=["alliance"], dependencies=[KnownQuery])

SiteName = Annotated[str, Path(min_length=1, max_length=64)]
NodeName = Annotated[str, Path(min_length=1, max_length=200)]
Notice = Annotated[
    float | None, Query(ge=0, le=7 * 86_400, allow_inf_nan=False, description="Default: that of one above its share.")
]
Part = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False, description="Of the site's GPUs; rounded down to whole nodes of each cluster.")]
ForSeconds = Annotated[float, Query(ge=0, le=86_400, allow_inf_nan=False, description="From now. Then its hours count again: at once, where it is 0.")]


def _ms(notice_s: float | None) -> int:
    return -1 if notice_s is None else round(notice_s * 1000)


@router.get("/api/v1/members", responses=described(401, 503))
def list_members(service: Running, who: Caller) -> list[MemberView]:
    """Members: shares, use, borrowing and lending now."""
    need_state(service)
    return service.views.members()


@router.get("/api/v1/sites", responses=described(401, 503))
def list_sites(service: Running, who: Caller) -> list[SiteView]:
    """Sites: what is there, what is online, what is in use."""
    need_state(service)
    return service.views.sites(service.writer.now_ms())


@router.post("/api/v1/sites", status_code=201, responses=described(401, 403, 413, 422, 503))
async def add_site(service: Running, who: Caller, new: Annotated[NewSite, Body(openapi_examples=examples.SITE)]) -> SiteJoined:
    """Let a site join the alliance; the answer has the token with which its agent enrols, this once."""
    need(who, "operator")
    try:
        site = await asyncio.to_thread(load_site, new.file, "file")
    except InputError as error:
        raise refused_input(error) from None
    token_id, secret, expires_ms = await carry_out(service, commands.add_site(site), who)
    view = service.views.site(site.name, service.writer.now_ms())
    return SiteJoined(site=view, token_id=token_id, token=secret, expires_at=iso(expires_ms) or "")


@router.post("/api/v1/sites/{site}/enrolment", status_code=201, responses=described(401, 403, 404, 422, 503))
async def make_enrolment(service: Running, who: Caller, site: SiteName) -> TokenMade:
    """Make a token with which a site's agent enrols, once, within an hour; its text is shown this once."""
    token_id, secret, expires_ms = await carry_out(service, commands.make_enrolment(site, who), who)
    return TokenMade(token_id=token_id, token=secret, expires_at=iso(expires_ms) or "")


@router.post("/api/v1/sites/{site}/cordon", responses=described(401, 403, 404, 422, 503))
async def cordon_site(service: Running, who: Caller, site: SiteName) -> SiteView:
    """Close a site: nothing new starts there, what runs goes on."""
    await carry_out(service, commands.operate(Cordon(site=site), who), who)
    return service.views.site(site, service.writer.now_ms())


@router.post("/api/v1/sites/{site}/drain", responses=described(401, 403, 404, 422, 503))
async def drain_site(service: Running, who: Caller, site: SiteName, notice_s: Notice = None) -> SiteView:
    """Close a site, and make what runs there save its work, leave and go on elsewhere."""
    await carry_out(service, commands.operate(Drain(site=site, notice_ms=_ms(notice_s)), who), who)
    return service.views.site(site, service.writer.now_ms())


@router.post("/api/v1/sites/{site}/uncordon", responses=described(401, 403, 404, 422, 503))
async def uncordon_site(service: Running, who: Caller, site: SiteName) -> SiteView:
    """Open a site again; nodes that were closed by themselves stay closed."""
    await carry_out(service, commands.operate(Uncordon(site=site), who), who)
    service.wake(site)
    return service.views.site(site, service.writer.now_ms())


@router.post("/api/v1/sites/{site}/release", responses=described(401, 403, 404, 422, 503))
async def release_site(service: Running, who: Caller, site: SiteName, part: Part, for_s: ForSeconds) -> SiteView:
    """Say what part of a cell site its radio releases for some time, in place of its hours; what runs on the rest leaves in `vacate`."""
    await carry_out(service, commands.release_cells(site, part, round(for_s * 1000), who), who)
    service.wake(site)
    return service.views.site(site, service.writer.now_ms())


@router.get("/api/v1/nodes", responses=described(401, 403, 503))
def list_nodes(service: Running, who: Caller) -> list[NodeView]:
    """Nodes that agents offer, with the jobs on them."""
    need(who, "operator", "auditor", "member_admin", "project_lead", "user")
    need_state(service)
    return service.views.nodes(who)


@router.post("/api/v1/nodes/{node}/cordon", responses=described(401, 403, 404, 422, 503))
async def cordon_node(service: Running, who: Caller, node: NodeName) -> NodeView:
    """Close a node: nothing new starts there, what runs goes on."""
    await carry_out(service, commands.operate(Cordon(node), who), who)
    return service.views.node(node, who)


@router.post("/api/v1/nodes/{node}/drain", responses=described(401, 403, 404, 422, 503))
async def drain_node(service: Running, who: Caller, node: NodeName, notice_s: Notice = None) -> NodeView:
    """Close a node, and make what runs there save its work, leave and go on elsewhere."""
    await carry_out(service, commands.operate(Drain(node, notice_ms=_ms(notice_s)), who), who)
    return service.views.node(node, who)


@router.post("/api/v1/nodes/{node}/uncordon", responses=described(401, 403, 404, 422, 503))
async def uncordon_node(service: Running, who: Caller, node: NodeName) -> NodeView:
    """Open a node again; it stays closed as long as its site is."""
    await carry_out(service, commands.operate(Uncordon(node), who), who)
    found = service.views.node(node, who)
    service.wake(found.site)
    return found


@router.get("/api/v1/agents", responses=described(401, 403, 503))
def list_agents(service: Running, who: Caller) -> list[AgentView]:
    """Agents and when they were last heard."""
    need(who, "operator", "auditor", "member_admin")
    need_state(service)
    return service.views.agents(service.writer.now_ms())


@router.get("/api/v1/usage", responses=described(401, 422, 503))
def get_usage(
    service: Running, who: Caller, by: Literal["member", "project", "user"] = "member",
    month: Annotated[str | None, Query(pattern=r"^(19[7-9][0-9]|[2-8][0-9]{3})-(0[1-9]|1[0-2])$", description="Default: this month (UTC).")] = None,
) -> Usage:  # fmt: skip
    """GPU time of a month by member, project or user, borrowed and lent beside each other."""
    need_state(service)
    now_ms = service.writer.now_ms()
    asked = month or datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m")
    return service.views.usage(by, asked, now_ms, who)


@router.get("/healthz", tags=["operation"], responses=described())
def health(service: Running) -> Health:
    """The process lives."""
    return Health(status="ok", seq=service.writer.seq)


@router.get("/readyz", tags=["operation"], responses=described(503))
def ready(service: Running) -> Health:
    """The service leads and writes; a follower answers 503 and says who leads."""
    if not service.writer.is_leading:
        raise following(service.writer.leader)
    return Health(status="ok", seq=service.writer.seq)


@router.get("/metrics", tags=["operation"], response_class=Response,
            responses={**described(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics."}})  # fmt: skip
def metrics(service: Running) -> Response:
    """Prometheus' exposition format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
