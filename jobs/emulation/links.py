"""The network: a bridge, a cable from it to each device, and how fast the cables are."""

from dataclasses import dataclass
from pathlib import Path

BRIDGE = "switch"
INTERFACE = "eth0"
SUBNET = "10.77.0.0/24"

# Of an Ethernet frame: bytes for TCP's data, with all headers, and on the wire, where check sum,
# preamble and gap come to it. The shaper counts just the data of what it will cut into frames.
_DATA, _FRAME, _WIRE = 1448, 1514, 1538

_SMALLEST_BURST = 256 * 1024
_SMALLEST_PEAK_BUCKET = 16 * 1024
_PEAK_BUCKET_SECONDS = 1e-3
_PEAK_TO_MEAN = 1.05
_QUEUE = "200ms"
_TCP = Path("/proc/sys/net/ipv4")


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
    bucket = peak_bucket(rate)
    burst = max(_SMALLEST_BURST, 4 * bucket)
    bits = round(rate * _DATA / _WIRE)
    return [
        *("tc", "qdisc", "add", "dev", interface, "root", "tbf"),
        *("rate", f"{bits}bit", "burst", str(burst), "latency", _QUEUE),
        *("peakrate", f"{round(bits * _PEAK_TO_MEAN)}bit", "mtu", str(bucket)),
    ]


def peak_bucket(rate: float) -> int:
    """Bytes that may leave at once, at `rate` bits a second."""
    return max(_SMALLEST_PEAK_BUCKET, round(rate / 8 * _PEAK_BUCKET_SECONDS))


def segments(rate: float) -> list[str]:
    """What keeps the packets that TCP hands to the interface whole on their way through it.

    The shaper cuts those that do not fit its bucket into frames and lets them out one by one:
    a timer for each, on the core of the rank that sends, which took as long as its computing.
    """
    return ["gso_max_size", str(min(peak_bucket(rate) - 2 * _FRAME, 1 << 16))]


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
        ["ip", "link", "set", address.port, *segments(rate), "master", BRIDGE, "up"],
        shaper(address.port, rate),
    ]


def device_commands(address: Address, rate: float) -> list[list[str]]:
    """What connects a device to its cable, in its own namespace."""
    return [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{address.ip}/24", "dev", INTERFACE],
        ["ip", "link", "set", INTERFACE, *segments(rate), "up"],
        shaper(INTERFACE, rate),
        ["sh", "-c", f"echo {congestion_control()} >{_TCP / 'tcp_congestion_control'}"],
    ]


def congestion_control() -> str:
    """How the devices' TCP finds its rate: as small computers' Linux does, not as this machine.

    A server's BBR probes for a rate again and again; over minutes its messages take 10% to 40%
    longer now and then.
    """
    # No other may be set outside the first network namespace.
    allowed = (_TCP / "tcp_allowed_congestion_control").read_text("ascii").split()
    return "cubic" if "cubic" in allowed else "reno"
