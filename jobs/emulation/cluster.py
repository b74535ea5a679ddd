"""The devices: namespaces of their own, held by one process each, all in one process namespace.

The first process of that namespace, the head's, ends when this process does, because it reads
a pipe whose other end is here. The kernel then ends every process of the namespace, and
network, host names and mounts go with the last process that uses them.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from emulation import Refusal, cleaner
from emulation.groups import DAEMON, Groups
from emulation.launch import Job, hostfile
from emulation.links import Address, bridge_commands, cable_commands, device_commands, hosts
from emulation.pace import Pace

_NAMESPACES = ("--mount", "--uts", "--ipc", "--net")

# /proc still shows the outer process numbers when the first line is read.
_HEAD = """read -r pid rest </proc/self/stat && mount -t proc proc /proc || exit 1
echo head >/proc/sys/kernel/hostname && mount --bind "$1" /etc/hosts || exit 1
echo "$pid" && exec cat"""
_DEVICE = """echo "$1" >/proc/sys/kernel/hostname && mount -t tmpfs shm /dev/shm || exit 1
echo $$ && exec sleep infinity"""


@dataclass(frozen=True)
class Limits:
    """What devices and ranks have on this machine.

    Attributes
    ----------
    memory : bytes of a device, or None.
    pace : of each rank.
    rate : bits a second of each link, either way.
    """

    memory: int | None
    pace: Pace
    rate: float


class Cluster:
    """Devices that are there from the start of a ``with`` block to its end.

    Parameters
    ----------
    devices : their names and addresses.
    ranks : on each device, numbered through from device to device.
    groups : control groups, not yet made.
    cores : of this machine, for the ranks in turn.
    folder : of this run, not yet made.
    """

    def __init__(
        self,
        devices: list[Address],
        ranks: int,
        limits: Limits,
        groups: Groups,
        cores: list[int],
        folder: Path,
    ) -> None:
        self.devices = devices
        self._ranks = ranks
        self._limits = limits
        self._groups = groups
        self._cores = cores
        self._folder = folder
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> "Cluster":
        cleaner.register(self._folder, self._groups.tops)
        self._life, self._lifeline = os.pipe()
        self._cleaner = self._start([sys.executable, cleaner.__file__, str(self._folder)])
        try:
            self._make()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        os.close(self._lifeline)
        for process in self._processes:
            process.wait()
        os.close(self._life)

    def _start(self, command: list[str], **more: object) -> subprocess.Popen:
        """A process that a Control-C at the terminal does not reach."""
        process = subprocess.Popen(command, stdin=self._life, start_new_session=True, **more)
        self._processes.append(process)
        return process

    def _make(self) -> None:
        rank_names = [f"rank-{n}" for n in range(self._ranks * len(self.devices))]
        of_device = {
            each.device: rank_names[n * self._ranks : (n + 1) * self._ranks]
            for n, each in enumerate(self.devices)
        }
        self._groups.make(of_device, self._limits.memory, self._limits.pace)
        (self._folder / "hostfile").write_text(hostfile(self.devices, self._ranks))
        (self._folder / "hosts").write_text(hosts(self.devices))
        # A path without blanks, as Open MPI wants it.
        shutil.copy(Path(__file__).with_name("agent.sh"), self._folder)
        self._make_head()
        for address in self.devices:
            self._make_device(address)
            self._note(address.device, "groups", self._groups.of(address.device, DAEMON))
            for rank in of_device[address.device]:
                self._note(rank, "groups", self._groups.of(address.device, rank))
        for number, rank in enumerate(rank_names):
            self._note(rank, "core", [self._cores[number % len(self._cores)]])

    def _note(self, name: str, kind: str, lines: list) -> None:
        """Leave word for agent.sh and rank.sh."""
        (self._folder / f"{name}.{kind}").write_text("".join(f"{line}\n" for line in lines))

    def _make_head(self) -> None:
        command = ["unshare", *_NAMESPACES, "--pid", "--fork", "sh", "-c", _HEAD, "head"]
        self._head = self._hold([*command, str(self._folder / "hosts")])
        self._inside = ["nsenter", "--target", str(self._head), *_NAMESPACES, "--pid"]
        for command in bridge_commands():
            _run(self._inside, command)

    def _make_device(self, address: Address) -> None:
        command = ["unshare", *_NAMESPACES, "sh", "-c", _DEVICE, "device", address.device]
        pid = self._hold([*self._inside, *command])
        self._note(address.device, "pid", [pid])
        for command in cable_commands(address, pid, self._limits.rate):
            _run(self._inside, command)
        enter = ["nsenter", "--target", str(pid), *_NAMESPACES]
        for command in device_commands(address, self._limits.rate):
            _run([*self._inside, *enter], command)

    def _hold(self, command: list[str]) -> int:
        """Start a process that keeps namespaces alive; the number that it prints."""
        process = self._start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = process.stdout.readline()
        if not said:
            complaint = _first_line(process.communicate()[1])
            raise Refusal(f"namespaces cannot be made here: {complaint}")
        return int(said)

    def start(self, command: list[str], environment: dict[str, str]) -> Job:
        """Start a command on the head: mpirun."""
        return Job(self._inside, command, environment, self._folder)

    def sample_memory(self) -> None:
        """Note how much memory each device holds now."""
        for address in self.devices:
            self._groups.sample(address.device)

    def measured(self) -> list[dict]:
        """Name, memory and bytes over the cable of each device, so far."""
        text = _run(self._inside, ["ip", "-json", "-statistics", "link", "show"])
        counts = {link["ifname"]: link["stats64"] for link in json.loads(text)}
        found = []
        for address in self.devices:
            memory, cable = self._groups.memory_use(address.device), counts[address.port]
            found.append(
                {
                    "device": address.device,
                    "memory_peak_bytes": memory.peak,
                    "memory_held_bytes": memory.held,
                    "memory_kills": memory.kills,
                    "sent_bytes": cable["rx"]["bytes"],
                    "received_bytes": cable["tx"]["bytes"],
                }
            )
        return found


def _run(enter: list[str], command: list[str]) -> str:
    """What a command prints in the namespaces that `enter` enters."""
    done = subprocess.run([*enter, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        complaint = _first_line(done.stderr) or f"exit code {done.returncode}"
        raise Refusal(f"{' '.join(command)}: {complaint}")
    return done.stdout


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
