"""The same drivers in SUMO: a straight motorway of three lanes, the ego vehicle in the middle one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from drivers import RANGE_M, Driver, driven, observe, time_to_collision_s
from measures import Drive
from scenes import DT_S, LANE_M, LATERAL_MPS2, LENGTH_M, WIDTH_M, Scene, speeds_mps

ROAD_M, EGO_LANE = 8_000.0, 1
#: Where the ego vehicle's front is at the beginning.
START_M = 1_000.0
#: The vehicle that brakes in traffic: how far ahead at least, when, how long.
SLOW_AHEAD_M, SLOW_AT_S, SLOW_FOR_S = 25.0, 8.0, 4.0


def _road_xml() -> str:
    lanes = "".join(
        f'<lane id="road_{i}" index="{i}" speed="60" length="{ROAD_M}" width="{LANE_M}" shape="0,{y} {ROAD_M},{y}"/>'
        for i, y in enumerate((i - 2.5) * LANE_M for i in range(3))
    )
    return (
        f'<net version="1.20"><location netOffset="0,0" convBoundary="0,0,{ROAD_M},0" origBoundary="0,0,{ROAD_M},0" projParameter="!"/>'
        f'<edge id="road" from="west" to="east" priority="1">{lanes}</edge>'
        f'<junction id="west" type="dead_end" x="0" y="0" incLanes="" intLanes="" shape="0,0 0,{-3 * LANE_M}"/>'
        f'<junction id="east" type="dead_end" x="{ROAD_M}" y="0" incLanes="road_0 road_1 road_2" intLanes="" '
        f'shape="{ROAD_M},{-3 * LANE_M} {ROAD_M},0"/></net>'
    )


class Highway:
    """SUMO in this process; each drive begins with an empty road and its own seed."""

    def __init__(self, sumo: ModuleType, folder: Path) -> None:
        self.sumo = sumo
        self.road = folder / "road.net.xml"
        self.road.write_text(_road_xml())
        self.sumo.start(["sumo", *self._options(1)])

    def _options(self, seed: int) -> list[str]:
        return [
            "-n", str(self.road), "--step-length", str(DT_S), "--lateral-resolution", "0.5", "--seed", str(seed),
            "--collision.action", "warn", "--collision.mingap-factor", "0", "--time-to-teleport", "-1",
            "--insertion-checks", "none", "--no-step-log", "true", "--no-warnings", "true",
        ]  # fmt: skip

    def _add(self, name: str, kind: str, lane: int, front_m: float, speed_mps: float, is_scripted: bool) -> None:
        vehicle = self.sumo.vehicle
        vehicle.add(name, "road", kind, depart="now", departLane=str(lane), departPos=f"{front_m:.6f}", departSpeed=f"{speed_mps:.6f}")
        if is_scripted:
            # No safe speed, no lane change but what is asked: collisions must be possible.
            vehicle.setSpeedMode(name, 0)
            vehicle.setLaneChangeMode(name, 0)

    def _kinds(self) -> None:
        kinds = self.sumo.vehicletype
        kinds.copy("DEFAULT_VEHTYPE", "car")
        for setting, value in (("Length", LENGTH_M), ("Width", WIDTH_M), ("MaxSpeed", 70.0), ("SpeedDeviation", 0.0)):
            getattr(kinds, f"set{setting}")("car", value)
        kinds.setParameter("car", "accelLat", str(LATERAL_MPS2))
        kinds.setParameter("car", "carFollowModel", "IDM")
        self.sumo.route.add("road", ["road"])

    def _fill(self, scene: Scene) -> None:
        """Others on all lanes, with room for the ego vehicle; each has its own wish and boldness."""
        rng = np.random.default_rng(scene.seed)
        kinds = self.sumo.vehicletype
        for lane in range(3):
            apart_m = 1000 / scene.density_per_km
            for i, front_m in enumerate(np.arange(0, 2 * START_M, apart_m) + rng.uniform(0, apart_m)):
                name = f"other-{lane}-{i}"
                at_m = front_m + rng.uniform(-0.25, 0.25) * apart_m
                wish_mps = scene.speed_mps * rng.uniform(0.85, 1.15)
                if lane == EGO_LANE and abs(at_m - START_M) < 35:
                    continue
                kinds.copy("car", name)
                kinds.setMaxSpeed(name, wish_mps)
                kinds.setMaxSpeedLat(name, rng.uniform(0.8, 1.6))
                kinds.setParameter(name, "lcAssertive", str(rng.uniform(1, 2.5)))
                kinds.setParameter(name, "lcSpeedGain", str(rng.uniform(1, 4)))
                self._add(name, name, lane, max(LENGTH_M, at_m), min(wish_mps, scene.speed_mps), is_scripted=False)

    def _script(self, scene: Scene, step: int) -> None:
        """What the actors do in the coming step."""
        vehicle = self.sumo.vehicle
        for i, actor in enumerate(scene.actors):
            vehicle.setSpeed(f"actor-{i}", float(speeds_mps(actor, np.array([(step + 1) * DT_S]))[0]))
            for move in actor.moves:
                if step == round(move.at_s / DT_S):
                    vehicle.setMaxSpeedLat(f"actor-{i}", move.speed_mps)
                    vehicle.changeSublane(f"actor-{i}", move.by_m)

    def _slow_one(self, scene: Scene, others: Mapping[str, tuple[float, float, float, float]]) -> None:
        """In traffic somebody ahead in the lane brakes."""
        ahead = [(gap, name) for name, (gap, y, _, _) in others.items() if gap > SLOW_AHEAD_M and abs(y) < LANE_M / 2]
        if ahead:
            name = min(ahead)[1]
            self.sumo.vehicle.slowDown(name, scene.slow_factor * self.sumo.vehicle.getSpeed(name), SLOW_FOR_S)

    @torch.inference_mode()
    def drive(self, scene: Scene, driver: Driver) -> Drive:
        """One driver through one scene, until its end or a collision."""
        sumo, codes = self.sumo, self.sumo.constants
        sumo.load(self._options(scene.seed or 1))
        self._kinds()
        self._add("ego", "car", EGO_LANE, START_M, scene.speed_mps, is_scripted=True)
        for i, actor in enumerate(scene.actors):
            lane = EGO_LANE + round(actor.offset_m / LANE_M)
            self._add(f"actor-{i}", "car", lane, START_M + actor.gap_m + LENGTH_M, actor.speed_mps, is_scripted=True)
        if scene.family == "traffic":
            self._fill(scene)
        # The first step only puts the vehicles on the road.
        sumo.simulationStep()
        sumo.vehicle.subscribeContext(
            "ego", codes.CMD_GET_VEHICLE_VARIABLE, RANGE_M, [codes.VAR_POSITION, codes.VAR_SPEED, codes.VAR_LENGTH]
        )
        lane_y = (EGO_LANE - 2.5) * LANE_M
        speed = wish = torch.tensor([[scene.speed_mps]], dtype=torch.float64)
        acceleration = torch.zeros_like(speed)
        drive = Drive()
        was: dict[str, tuple[float, float, float, float]] = {}
        for step in range(scene.num_steps):
            around = sumo.vehicle.getContextSubscriptionResults("ego")
            front_m = around["ego"][codes.VAR_POSITION][0] if step else START_M
            others = {
                name: (
                    found[codes.VAR_POSITION][0] - found[codes.VAR_LENGTH] - front_m,
                    found[codes.VAR_POSITION][1] - lane_y,
                    found[codes.VAR_SPEED],
                    found[codes.VAR_LENGTH],
                )
                for name, found in sorted(around.items())
                if name != "ego"
            }
            rows = [(gap, y, v, y - was.get(name, (0, y))[1], v - was.get(name, (0, 0, v))[2], length) for name, (gap, y, v, length) in others.items()]  # fmt: skip
            table = torch.tensor(rows or [(1e4, 1e4, 0, 0, 0, LENGTH_M)], dtype=torch.float64).T[:, None, None]
            gap, y, v, dy, dv, length = table
            actors = {
                "gap_m": gap, "y_m": y, "v_mps": v, "vy_mps": dy / DT_S, "a_mps2": dv / DT_S,
                "is_there": gap < RANGE_M, "length_m": length,
            }  # fmt: skip
            seen = observe({"v_mps": speed, "a_mps2": acceleration, "wish_mps": wish}, actors)
            touches = (y.abs() < WIDTH_M) & (gap < 0) & (gap + length / 2 > -LENGTH_M / 2)
            hit_mps = float((speed - v[touches]).amax()) if bool(touches.any()) else None
            drive.add(front_m - START_M, float(speed), float(acceleration), float(time_to_collision_s(seen)), others)
            if hit_mps is not None:
                drive.hit_mps = hit_mps
                break
            if scene.family == "traffic" and step == round(SLOW_AT_S / DT_S):
                self._slow_one(scene, others)
            speed, acceleration = driven(driver.act(seen), speed, acceleration)
            sumo.vehicle.setSpeed("ego", float(speed))
            self._script(scene, step)
            sumo.simulationStep()
            was = others
        return drive


@contextmanager
def highway() -> Iterator[Highway]:
    """SUMO started and, in the end, closed."""
    import libsumo

    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Highway(libsumo, Path(folder))
        finally:
            libsumo.close()
