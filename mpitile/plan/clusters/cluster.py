"""A cluster as plain data: devices, their speed, and the links between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

OPERATIONS = ("forward", "backward_input", "backward_weights")
# What `DeviceSpeed.flops` tells apart.
KINDS = ("3x3", "1x1", "other", "depthwise")
MEDIA = ("switched", "shared")


@dataclass(frozen=True, slots=True)
class Link:
    """A connection that takes ``latency + bytes / bandwidth`` for a message.

    Attributes
    ----------
    latency : seconds from one rank's sending to the other's having received nothing but a word.
    bandwidth : bytes a second in each direction, both at once.
    """

    latency: float
    bandwidth: float

    def seconds(self, size: float) -> float:
        """Of one message of `size` bytes that has the link for itself."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: the seconds of an operation on images x rows x columns of output."""

    images: int
    rows: int
    columns: int
    seconds: float


# By layer class (`mpitile.plan.costs.layer_class`) and operation.
KernelTimes = Mapping[str, Mapping[str, tuple[Point, ...]]]


@dataclass(frozen=True)
class DeviceSpeed:
    """How fast one rank computes while all ranks of its device do.

    Attributes
    ----------
    flops : by kind and operation, effective operations a second: those of the plain sum,
        also where an algorithm needs fewer.
    bytes : bytes a second that work bound by memory reads and writes.
    call : seconds that one operation of one layer takes whatever its size.
    clear : bytes a second set to zero.
    copy : bytes a second packed into or out of message buffers.
    piece : seconds that packing or unpacking a message takes whatever its size.
    sum : bytes a second that a rank adds to its own in a reduction.
    update : seconds for each weight by optimiser.
    share : the part of a core that a rank has; all other figures are those of a whole one.
    kernels : measured times; whatever is not among them follows from the above.
    """

    flops: Mapping[tuple[str, str], float]
    bytes: float
    call: float
    clear: float
    copy: float
    piece: float
    sum: float
    update: Mapping[str, float]
    share: float = 1.0
    kernels: KernelTimes = field(default_factory=dict)

    def slowed(self, factor: float) -> DeviceSpeed:
        """That of a device on which everything takes `factor` times as long."""
        return replace(
            self,
            flops={key: rate / factor for key, rate in self.flops.items()},
            bytes=self.bytes / factor,
            call=self.call * factor,
            clear=self.clear / factor,
            copy=self.copy / factor,
            piece=self.piece * factor,
            sum=self.sum / factor,
            update={name: seconds * factor for name, seconds in self.update.items()},
            kernels={
                name: {
                    operation: tuple(replace(p, seconds=p.seconds * factor) for p in points)
                    for operation, points in operations.items()
                }
                for name, operations in self.kernels.items()
            },
        )


@dataclass(frozen=True)
class Device:
    """A host: ranks that share its memory and its link.

    Attributes
    ----------
    ranks : how many ranks it runs.
    memory : bytes that they may take together; None for not known.
    """

    name: str
    ranks: int
    memory: int | None
    speed: DeviceSpeed


@dataclass(frozen=True)
class Cluster:
    """Devices and links.

    Attributes
    ----------
    devices : ranks fill them in this order.
    inside : the link between two ranks of a device.
    between : a device's link to the others, which its ranks share.
    medium : "switched" where devices send at the same time, "shared" where they take turns.
    itemsize : bytes of the numbers that `DeviceSpeed` was measured with.
    """

    devices: tuple[Device, ...]
    inside: Link
    between: Link
    medium: str = "switched"
    itemsize: int = 4

    @cached_property
    def ranks(self) -> int:
        return sum(device.ranks for device in self.devices)

    @cached_property
    def _places(self) -> tuple[int, ...]:
        return tuple(
            number for number, device in enumerate(self.devices) for _ in range(device.ranks)
        )

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return (0, *accumulate(device.ranks for device in self.devices))

    def device_of(self, rank: int) -> int:
        """The number of the device that runs a rank."""
        return self._places[rank]

    def ranks_of(self, device: int) -> range:
        """The ranks that a device runs."""
        return range(self._ends[device], self._ends[device + 1])
