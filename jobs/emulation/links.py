"""The network: a bridge, a cable from it to each device, and how fast the cables are."""

from dataclasses import dataclass

BRIDGE = "switch"
INTERFACE = "eth0"
SUBNET = "10.77.0.0/24"

# What an Ethernet frame costs on the wire beyond what the kernel counts: check sum, preamble, gap.
FRAME_OVERHEAD = 24

_SMALLEST_BURST = 256 * 1024
_SMALLEST_PEAK_BUCKET = 4 * 1024
_PEAK_BUCKET_SECONDS = 1e-3
_PEAK_TO_MEAN = 1.05
_QUEUE = "200ms"


@dataclass(frozen=True)
class Address:
    """A device's name, its address, and its end of the cable at the bridge."""

    device: str
    ip: str
    port: str


def addresses(devices: int) -> list[Address]:
    """The devices ``device1``, ``device2``, ... in the subnet."""
    return [Address(f"device{n}", f"10.77.0.{n}", f"port{n}") for n in range(1, devices + 1)]


HEAD = Address("head", "10.77.0.254", BRIDGE)


def hosts(devices: list[Address]) -> str:
    """The text of ``/etc/hosts``."""
    lines = ["127.0.0.1 localhost", *(f"{each.ip} {each.device}" for each in [HEAD, *devices])]
    return "\n".join(lines) + "\n"


def shaper(interface: str, rate: float) -> list[str]:
    """The ``tc`` command that holds what leaves `interface` to `rate` bits a second.

    The bucket of 256 KiB makes up for timers that come late. On its own it would also let
    messages of that size pass in no time after a pause, so a second, small bucket holds the
    rate of the moment to little more than the mean.
    """
    bucket = max(_SMALLEST_PEAK_BUCKET, round(rate / 8 * _PEAK_BUCKET_SECONDS))
    burst = max(_SMALLEST_BURST, 4 * bucket)
    bits = round(rate)
    return [
        *("tc", "qdisc", "add", "dev", interface, "root", "tbf"),
        *("rate", f"{bits}bit", "burst", str(burst), "latency", _QUEUE),
        *("peakrate", f"{round(rate * _PEAK_TO_MEAN)}bit", "mtu", str(bucket)),
        *("overhead", str(FRAME_OVERHEAD)),
    ]


def bridge_commands() -> list[list[str]]:
    """What makes the bridge, in the head's namespace, whose own cable it is."""
    return [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", BRIDGE, "type", "bridge"],
        ["ip", "address", "add", f"{HEAD.ip}/24", "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
    ]


def cable_commands(address: Address, pid: int, rate: float) -> list[list[str]]:
    """What lays a cable, in the head's namespace, to that of process `pid`."""
    cable = ["ip", "link", "add", address.port, "type", "veth"]
    return [
        [*cable, "peer", "name", INTERFACE, "netns", str(pid)],
        ["ip", "link", "set", address.port, "master", BRIDGE, "up"],
        shaper(address.port, rate),
    ]


def device_commands(address: Address, rate: float) -> list[list[str]]:
    """What connects a device to its cable, in its own namespace."""
    return [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{address.ip}/24", "dev", INTERFACE],
        ["ip", "link", "set", INTERFACE, "up"],
        shaper(INTERFACE, rate),
    ]
