"""The process that speaks to Ray, for an agent that does not: ``python -m dure.executors.ray.driver ADDRESS``.

Ray's core ends the process that it is in when it has been out of contact for a minute, or its raylet dies; and it connects to
one cluster once. So it has a process of its own, which the agent starts again. Each line that it reads is a question, each
line that it writes an answer or what has become of an actor, as JSON (`dure.executors.ray.link` is the other end). It ends
with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.util import list_named_actors, remove_placement_group
from ray.util.placement_group import get_placement_group, placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dure.executors import process, ranks, shim
from dure.executors.ray import runner, spec
from dure.executors.ray.runner import NodeRunner
from dure.executors.ray.spec import NAMESPACE, actor_name

#: Modules whose functions and classes go to the nodes by value.
TRAVELLING = (process, ranks, shim, spec, runner)
_THREADS = 8
_UNAVAILABLE_S = 0.5
_TELL_S = 5.0
_LINE_MAX = 64 << 20


class Driver:
    """Answers what the agent asks; each question has a number, and its answer the same.

    Parameters
    ----------
    out : TextIO
        Where the lines go.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._pool = ThreadPoolExecutor(_THREADS)
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        for module in TRAVELLING:
            ray.cloudpickle.register_pickle_by_value(module)
        self._runner = ray.remote(NodeRunner)

    def _write(self, line: dict[str, Any]) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    async def run(self, address: str) -> None:
        """Connect, and answer until the input ends."""
        reader = asyncio.StreamReader(limit=_LINE_MAX)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        connecting = asyncio.create_task(self._in_thread(_connect, address))
        first = asyncio.create_task(reader.readline())
        waiting: list[asyncio.Task[Any]] = [connecting, first]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done() and not first.result():
            return
        try:
            await connecting
        except Exception as error:
            self._write({"no": f"{error}" or type(error).__name__})
            return
        self._write({"up": True})
        line = await first
        while line:
            task = asyncio.create_task(self._serve(json.loads(line)))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            line = await reader.readline()

    async def _serve(self, asked: dict[str, Any]) -> None:
        number, what = asked.pop("id"), asked.pop("do")
        try:
            answer = await getattr(self, f"do_{what}")(**asked)
        except (ValueError, TypeError) as error:
            self._write({"id": number, "refused": str(error)})
        except Exception as error:
            self._write({"id": number, "silent": f"{type(error).__name__}: {error}"})
        else:
            self._write({"id": number, "answer": answer})

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    async def do_survey(self, prefix: str) -> dict[str, Any]:
        """All nodes, and the groups and actors whose names begin with ours."""
        return await self._in_thread(_survey, prefix)  # type: ignore[no-any-return]

    async def do_start(self, name: str, bundles: list[dict[str, float]], node_ids: list[str], specs: list[Any]) -> None:
        """Make the placement group of an attempt, and an actor on each of its nodes."""
        handles = await self._in_thread(self._create, name, bundles, node_ids, specs)
        for actor, handle in handles.items():
            self._watch(actor, handle)

    def _create(self, name: str, bundles: list[dict[str, float]], node_ids: list[str], specs: list[Any]) -> dict[str, Any]:
        group = placement_group(
            bundles, strategy="PACK", name=name, lifetime="detached",
            bundle_label_selector=[{"ray.io/node-id": node_id} for node_id in node_ids],
        )  # fmt: skip
        return {
            actor_name(name, idx): self._runner.options(
                name=actor_name(name, idx), lifetime="detached", max_restarts=0, num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0), memory=bundle.get("memory"),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=idx),
            ).remote(part)
            for idx, (bundle, part) in enumerate(zip(bundles, specs, strict=True))
        }  # fmt: skip

    async def do_follow(self, actors: list[str]) -> None:
        """Tell what becomes of some actors; of one that is not there, nothing."""
        for actor in actors:
            if actor not in self._watched:
                try:
                    self._watch(actor, await self._in_thread(ray.get_actor, actor))
                except ValueError:
                    continue

    def _watch(self, actor: str, handle: Any) -> None:
        task = asyncio.create_task(self._follow(actor, handle))
        self._watched[actor] = task
        task.add_done_callback(lambda _: self._watched.pop(actor, None))

    async def _follow(self, actor: str, handle: Any) -> None:
        is_available = True
        while True:
            try:
                await handle.begun.remote()
                self._write({"actor": actor, "is": "begun"})
                await handle.ended.remote()
                self._write({"actor": actor, "is": "ended"})
            except ActorUnavailableError:
                if is_available:
                    self._write({"actor": actor, "is": "unavailable"})
                is_available = False
                await asyncio.sleep(_UNAVAILABLE_S)
                continue
            except RayTaskError as error:
                self._write({"actor": actor, "is": "failed", "why": f"{type(error.cause).__name__}: {error.cause}"})
            except RayActorError as error:
                self._write({"actor": actor, "is": "dead", "why": str(error)})
            return

    async def do_tell(self, actor: str, signal: str) -> None:
        """Have an actor signal its ranks; return when they have it."""
        handle = await self._in_thread(ray.get_actor, actor)
        await asyncio.wait_for(handle.tell.remote(signal), _TELL_S)

    async def do_drop(self, name: str, actors: list[str]) -> None:
        """Take away what there is of an attempt: its group, and what the group did not take with it."""
        await self._in_thread(_drop, name, actors)


def _connect(address: str) -> None:
    ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")


def _survey(prefix: str) -> dict[str, Any]:
    available = ray._private.state.available_resources_per_node()
    groups = [
        {"name": group["name"], "state": group["state"],
         "bundles": [[group["bundles_to_node_id"].get(idx), wanted] for idx, wanted in group["bundles"].items()]}
        for group in placement_group_table().values()
        if group["name"].startswith(prefix) and group["state"] != "REMOVED"
    ]  # fmt: skip
    nodes = [
        {"node_id": node["NodeID"], "name": node["NodeName"], "is_alive": node["Alive"], "address": node["NodeManagerAddress"],
         "labels": node["Labels"], "total": node["Resources"], "available": available.get(node["NodeID"], {})}
        for node in ray.nodes()
    ]  # fmt: skip
    return {"nodes": nodes, "groups": groups, "actors": [name for name in list_named_actors() if name.startswith(prefix)]}


def _drop(name: str, actors: list[str]) -> None:
    # ValueError: it is not there.
    with contextlib.suppress(ValueError):
        remove_placement_group(get_placement_group(name))
    for actor in actors:
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(actor))


def main() -> None:
    """Serve the agent that has started this process."""
    out = os.fdopen(os.dup(1), "w")
    # Whatever else is printed must not come between the lines.
    os.dup2(2, 1)
    asyncio.run(Driver(out).run(sys.argv[1]))
    # Ray's threads may hang on a cluster that is gone.
    os._exit(0)


if __name__ == "__main__":
    main()
