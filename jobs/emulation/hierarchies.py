"""Where this machine keeps control groups: version 1, a tree for each controller, or version 2."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CONTROLLERS = ("memory", "cpu")


@dataclass(frozen=True)
class Hierarchy:
    """A tree of control groups in which groups can be made.

    Attributes
    ----------
    version : 1 or 2.
    controllers : those of `CONTROLLERS` that it has.
    base : the group to make groups in: that of this process, or with version 2 the nearest one
        above that hands its controllers on, for there a group with processes has no children.
    """

    version: int
    controllers: frozenset[str]
    base: Path

    def delegate(self, group: Path) -> None:
        """Let the groups inside `group` have the controllers: with version 2 it must be said."""
        if self.version == 2:
            wanted = " ".join(f"+{name}" for name in sorted(self.controllers))
            (group / "cgroup.subtree_control").write_text(wanted)


def find_hierarchies() -> tuple[Hierarchy, ...]:
    """The hierarchies of this machine in which this process may make groups."""
    own = Path("/proc/self/cgroup").read_text()
    mounts = Path("/proc/self/mountinfo").read_text()
    found = []
    for version, controllers, mount, group in locate(own, mounts):
        if version == 2:
            hierarchy = nearest_delegating(mount, group)
        else:
            hierarchy = Hierarchy(1, controllers, mount / group)
        if hierarchy and hierarchy.controllers and os.access(hierarchy.base, os.W_OK):
            found.append(hierarchy)
    return tuple(found)


def locate(own: str, mounts: str) -> list[tuple[int, frozenset[str], Path, PurePosixPath]]:
    """Version, controllers (of version 1), mount point, and this process's group below it.

    Parameters
    ----------
    own : text of ``/proc/self/cgroup``.
    mounts : text of ``/proc/self/mountinfo``.
    """
    groups = {}
    for line in own.splitlines():
        _, names, path = line.split(":", 2)
        groups[frozenset(names.split(","))] = PurePosixPath(path)
    found = {}
    for line in mounts.splitlines():
        before, after = (part.split() for part in line.split(" - ", 1))
        kind, options = after[0], frozenset(after[2].split(","))
        if kind not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind == "cgroup2" else 1
        controllers = options.intersection(CONTROLLERS) if version == 1 else frozenset()
        for names, path in groups.items():
            mine = names == {""} if version == 2 else names & controllers
            if mine:
                found[version, controllers] = Path(before[4]), _below(path, before[3])
    return [(*key, *place) for key, place in found.items()]


def _below(path: PurePosixPath, root: str) -> PurePosixPath:
    """`path` seen from a mount that shows the tree from `root` on."""
    if path.is_relative_to(root):
        return path.relative_to(root)
    return PurePosixPath()


def nearest_delegating(mount: Path, group: PurePosixPath) -> Hierarchy | None:
    """A group of version 2 in which groups with controllers can be made.

    The nearest one that hands on memory and cpu already, else the nearest that can be told to,
    which then stays so: it is the administrator's setting, not a thing of one run.
    """
    above = [mount / group, *(mount / parent for parent in group.parents)]
    for folder in above:
        enabled = _named(folder / "cgroup.subtree_control")
        if enabled == frozenset(CONTROLLERS):
            return Hierarchy(2, enabled, folder)
    for folder in above:
        available = _named(folder / "cgroup.controllers")
        if available:
            hierarchy = Hierarchy(2, available, folder)
            with suppress(OSError):
                hierarchy.delegate(folder)
                return hierarchy
    return None


def _named(file: Path) -> frozenset[str]:
    with suppress(OSError):
        return frozenset(file.read_text().split()).intersection(CONTROLLERS)
    return frozenset()
