"""The control groups of devices and ranks: what they may use, and what they have used.

Below a group of the run lies one for each device, and in it one for each of its ranks and one
for Open MPI's daemon: ``RUN/device1/rank-0``.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emulation import Refusal
from emulation.hierarchies import Hierarchy
from emulation.pace import Pace

DAEMON = "daemon"


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a device has used at most; None where the kernel does not say.

    Attributes
    ----------
    peak : everything that the kernel charges, cached files included.
    held : what processes hold, without cached files; sampled, hence perhaps a little low.
    kills : processes that the kernel has killed because memory ran out.
    """

    peak: int | None
    held: int | None
    kills: int


def memory_settings(version: int, limit: int) -> dict[str, str]:
    """What to write into which file, in this order, so that a group has no more than `limit`."""
    if version == 1:
        return {
            "memory.limit_in_bytes": str(limit),
            "memory.memsw.limit_in_bytes": str(limit),
        }
    return {"memory.max": str(limit), "memory.swap.max": "0"}


def cpu_settings(version: int, pace: Pace) -> dict[str, str]:
    """What to write into which file, in this order, so that a rank has its share of a core."""
    quota, period = str(pace.quota_us), str(pace.period_us)
    if version == 1:
        return {
            "cpu.cfs_period_us": period,
            "cpu.cfs_quota_us": quota,
            "cpu.cfs_burst_us": quota,
        }
    return {"cpu.max": f"{quota} {period}", "cpu.max.burst": quota}


class Groups:
    """The groups of one run.

    Parameters
    ----------
    hierarchies : where groups can be made.
    name : of the run's own group in each of them.
    """

    def __init__(self, hierarchies: Iterable[Hierarchy], name: str) -> None:
        self._tops = {hierarchy: hierarchy.base / name for hierarchy in hierarchies}
        self._held: dict[str, int] = {}

    @property
    def tops(self) -> list[Path]:
        """The outermost groups: everything that is made lies in them."""
        return list(self._tops.values())

    def has(self, controller: str) -> bool:
        """Whether groups have this controller."""
        return any(controller in hierarchy.controllers for hierarchy in self._tops)

    def make(self, devices: dict[str, list[str]], memory: int | None, pace: Pace) -> None:
        """Make the groups of devices and their ranks, and set their limits.

        Parameters
        ----------
        devices : names of each device's ranks.
        memory : bytes for each device, or None.
        """
        for hierarchy, top in self._tops.items():
            top.mkdir()
            hierarchy.delegate(top)
            for device, ranks in devices.items():
                group = top / device
                group.mkdir()
                if memory is not None and "memory" in hierarchy.controllers:
                    apply(group, memory_settings(hierarchy.version, memory))
                hierarchy.delegate(group)
                for name in (DAEMON, *ranks):
                    (group / name).mkdir()
                if pace.limited and "cpu" in hierarchy.controllers:
                    for rank in ranks:
                        apply(group / rank, cpu_settings(hierarchy.version, pace))

    def of(self, device: str, member: str) -> list[Path]:
        """The groups that a process of a rank, or the daemon, has to be in."""
        return [top / device / member for top in self._tops.values()]

    def sample(self, device: str) -> None:
        """Note how much memory the device's processes hold now."""
        for hierarchy, top in self._tops.items():
            if "memory" in hierarchy.controllers:
                counts = _counts(top / device / "memory.stat")
                kinds = (
                    ("total_rss", "total_shmem") if hierarchy.version == 1 else ("anon", "shmem")
                )
                held = sum(counts.get(kind, 0) for kind in kinds)
                self._held[device] = max(held, self._held.get(device, 0))

    def memory_use(self, device: str) -> MemoryUse:
        """What the device has used so far."""
        for hierarchy, top in self._tops.items():
            if "memory" in hierarchy.controllers:
                group = top / device
                if hierarchy.version == 1:
                    peak = _number(group / "memory.max_usage_in_bytes")
                    events = [_counts(file) for file in group.rglob("memory.oom_control")]
                else:
                    peak = _number(group / "memory.peak")
                    events = [_counts(group / "memory.events")]
                kills = sum(counts.get("oom_kill", 0) for counts in events)
                return MemoryUse(peak, self._held.get(device), kills)
        return MemoryUse(None, None, 0)


def apply(group: Path, settings: dict[str, str]) -> None:
    """Write settings into a group's files; `Refusal` where the kernel will not have one."""
    for name, value in settings.items():
        file = group / name
        # A kernel without swap has no files for it, and needs none.
        if not file.exists() and ("swap" in name or "memsw" in name):
            continue
        try:
            file.write_text(value)
        except OSError as error:
            raise Refusal(f"{file}: cannot be set to {value!r}: {error.strerror}") from None


def _counts(file: Path) -> dict[str, int]:
    counts = {}
    with suppress(OSError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            counts[name] = int(value)
    return counts


def _number(file: Path) -> int | None:
    with suppress(OSError):
        return int(file.read_text())
    return None
