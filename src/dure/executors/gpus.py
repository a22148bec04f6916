"""GPUs of this machine through NVML: names, MIG parts, energy. Without the library or a GPU there are none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from dure.model.events import Placement


@dataclass(frozen=True)
class MigPart:
    """A part that the operator has cut from a GPU. ``milli``: its share of the compute, thousandths rounded up."""

    uuid: str
    milli: int


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``parts``: its MIG parts, none where it is whole."""

    uuid: str
    gpu_type: str
    parts: tuple[MigPart, ...] = ()


class Nvml:
    """A session with the driver; `open_nvml` makes it."""

    def __init__(self, library: Any) -> None:
        self._nvml = library

    def gpus(self) -> list[Gpu]:
        """All GPUs in the order of their PCI bus ids, as indices count them."""
        num = self._nvml.nvmlDeviceGetCount()
        return [self._gpu(self._nvml.nvmlDeviceGetHandleByIndex(idx)) for idx in range(num)]

    def _gpu(self, handle: Any) -> Gpu:
        name = _text(self._nvml.nvmlDeviceGetName(handle))
        return Gpu(_text(self._nvml.nvmlDeviceGetUUID(handle)), gpu_type_of(name), tuple(self._parts(handle)))

    def _parts(self, handle: Any) -> list[MigPart]:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(handle)
        except self._nvml.NVMLError:
            return []
        if not current:
            return []
        # As many as there are compute slices: 7 on A100 and H100, 4 on A30.
        num_slices = self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
        found = []
        for idx in range(num_slices):
            try:
                part = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, idx)
            except self._nvml.NVMLError:
                continue
            slices = self._nvml.nvmlDeviceGetAttributes(part).computeInstanceSliceCount
            found.append(MigPart(_text(self._nvml.nvmlDeviceGetUUID(part)), -(-slices * 1000 // num_slices)))
        return found

    def energy_mj(self, uuids: Sequence[str]) -> dict[str, int]:
        """What each GPU has used since the driver was loaded, millijoules; those that do not count it are left out."""
        found = {}
        for uuid in uuids:
            try:
                handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
                found[uuid] = int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
            except self._nvml.NVMLError:
                continue
        return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def gpu_type_of(name: str) -> str:
    """``NVIDIA H100 80GB HBM3`` → ``h100``: the model, as alliances name GPU types."""
    words = [word for word in name.replace("-", " ").split() if word.lower() not in {"nvidia", "tesla", "geforce", "rtx"}]
    return words[0].lower() if words else "gpu"


def open_nvml() -> Nvml | None:
    """The driver; None where there is no library, no driver or no GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        num = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return None
    return Nvml(pynvml) if num else None


def visible_devices(placement: Placement, gpus: Sequence[Gpu], taken: Collection[str] = ()) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES names: indices of whole GPUs, UUIDs of MIG parts where the GPU is cut into some.

    Parameters
    ----------
    gpus : sequence of Gpu
        The node's; empty on a stand-in.
    taken : collection of str
        MIG parts that other attempts have.

    Raises
    ------
    LookupError
        No free part of the GPU is large enough.
    """
    found: list[str] = []
    for idx in placement.gpus:
        parts = gpus[idx].parts if idx < len(gpus) else ()
        if not parts:
            found.append(str(idx))
            continue
        fitting = [part for part in parts if part.milli >= placement.gpu_milli and part.uuid not in {*taken, *found}]
        if not fitting:
            raise LookupError(f"no free MIG part of {placement.gpu_milli} thousandths on GPU {idx} of {placement.node}")
        found.append(min(fitting, key=lambda part: (part.milli, part.uuid)).uuid)
    return tuple(found)


def mps_share(milli: int) -> dict[str, str]:
    """Variables that hold a process to so many thousandths of each of its GPUs.

    CUDA obeys where an MPS daemon runs on the node, and takes no notice elsewhere (NVIDIA, Multi-Process Service, environment variables).
    """
    # Rounded down: those of several processes stay within the GPU.
    return {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(max(milli // 10, 1))}


def share_env(placement: Placement, visible: Sequence[str]) -> dict[str, str]:
    """`mps_share` of a job that has a part of a GPU that is not cut; none for whole GPUs and for MIG parts, which need none."""
    if placement.gpu_milli >= 1000 or any(device.startswith("MIG-") for device in visible):
        return {}
    return mps_share(placement.gpu_milli)
