"""Nodes that agents offer, and the agents."""

from __future__ import annotations

from nicegui import ui

from dure.console.frame import Frame, page
from dure.console.parts import Table, column, job_href, section
from dure.console.session import running
from dure.console.terms import AGENT_STATES, NODE_STATES, term
from dure.console.words import N_
from dure.service import routes_alliance
from dure.service.errors import Problem
from dure.service.identity import Principal

_NODE_TONES = {"up": "good", "spare": "calm", "offline": "calm", "closed": "calm", "radio": "calm", "cordoned": "calm", "draining": "calm", "drained": "calm"}


@page("/nodes", N_("Nodes and agents"))
async def nodes(frame: Frame) -> None:
    """Two tables; agents are shown to those whom the API shows them."""
    _, words = frame.words.say, frame.words
    with section(_("Agents")):
        no_agents = ui.label(_("Agents are shown to operators, auditors and administrators of members.")).classes("dure-faint")
        agents_table = Table(frame, _("Agents"), [
            column("site", _("Site")), column("state", _("State"), "state"), column("seen", _("Last heard")),
            column("nodes", _("Nodes"), "number"), column("runs", _("Leases"), "number"), column("agent_id", _("Id")),
        ], "site", _("No agent has been heard yet."))  # fmt: skip
    with section(_("Nodes")):
        nodes_table = Table(frame, _("Nodes"), [
            column("name", _("Node")), column("site", _("Site")), column("owner", _("Owner")), column("gpu_type", _("GPU type")),
            column("state", _("State"), "state"), column("gpus", _("GPUs"), "number"), column("used", _("In use"), "number"),
            column("cpus", _("Cores"), "number"), column("memory", _("Memory (GiB)"), "number"), column("jobs", _("Jobs"), "links"),
        ], "name", _("No agent offers a node yet."))  # fmt: skip

    async def update(who: Principal) -> None:
        service, feed = running().service, running().feed
        try:
            agents = await feed.ask(("agents", who.grants), lambda: routes_alliance.list_agents(service, who))
        except Problem as refusal:
            if refusal.status != 403:
                raise
            agents = None
        agents_table.show_if(agents is not None)
        no_agents.visible = agents is None
        found = await feed.ask(("nodes", who.grants), lambda: routes_alliance.list_nodes(service, who))
        agents_table.show([
            {"site": a.site, "state": term(words, AGENT_STATES, a.state), "state_tone": "good" if a.state == "connected" else "bad",
             "seen": words.distance(a.seen_at), "nodes": a.nodes, "runs": a.runs, "agent_id": a.agent_id}
            for a in agents or ()
        ])  # fmt: skip
        nodes_table.show([
            {"name": n.name, "site": n.site, "owner": n.owner, "gpu_type": n.gpu_type, "state": term(words, NODE_STATES, n.state),
             "state_tone": _NODE_TONES.get(n.state, "bad"), "gpus": n.gpus, "used": n.used_gpus, "cpus": n.cpu_milli / 1000,
             "memory": n.mem_mib / 1024, "jobs": [{"text": job, "href": job_href(job)} for job in n.jobs]}
            for n in found
        ])  # fmt: skip

    await frame.live(update)
