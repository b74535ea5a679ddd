"""Is the emulated cluster what it says? Links, all-reduce, and results, as MPI sees them.

    python tests/bench/link.py [--rates 10mbit,100mbit,1gbit]            (as root)

First two devices at full speed: latency, and bandwidth of 2 MB one way and both ways at once.
Then an all-reduce of y16's weights over 2, 4 and 6 devices with the waits that mpitile uses,
under quotas where devices share cores: as Open MPI chooses to do it, and as a ring. Then
training steps of a small detector on 6 devices, tiled against whole. Seconds are the devices':
measured ones times the pace that emulate.py says.
"""

import argparse
import json
import os
import sys
import time
from statistics import median

import numpy as np
from shared import ROOT, emulated

RATES = "10mbit,100mbit,1gbit"
WEIGHTS = 3_418_976
MESSAGE = 2_000_000
ROUNDS = 5
SUM_ROUNDS = 3
RING = "1"

# Of an Ethernet frame of 1500 bytes with all that goes with it on the wire, TCP carries this.
ETHERNET = 1448 / 1538


def main() -> None:
    # On the devices: this file in another role.
    if sys.argv[1:] and sys.argv[1] in ROLES:
        ROLES[sys.argv[1]](*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", default=RATES, help=f"of the first table's links ({RATES})")
    rates = parser.parse_args().rates.split(",")
    print("two devices of one rank, full speed")
    print(f"{'rate':>8}  {'latency':>9}  {'one way':>11}  {'both ways':>11}  wire's limit")
    for rate in rates:
        found, _ = first_rank(2, 1, rate, "link")
        limit = _bits(rate) / 8e6 * ETHERNET
        print(
            f"{rate:>8}  {found['latency'] * 1e6:6.0f} us  {found['one_way'] / 1e6:6.2f} MB/s"
            f"  {found['both_ways'] / 1e6:6.2f} MB/s  {limit:6.2f} MB/s"
        )
    print(f"\nall-reduce of {WEIGHTS * 4 / 1e6:.1f} MB at 100 Mbit/s, device seconds")
    print(f"{'devices':>7}  {'ranks':>5}  {'share of core':>13}  {'chosen':>7}  ring  ring's limit")
    for devices, ranks in ((2, 1), (4, 1), (6, 1), (2, 4)):
        chosen, report = first_rank(devices, ranks, "100mbit", "sum")
        ring, _ = first_rank(devices, ranks, "100mbit", "sum", RING)
        pace = report["device_seconds_per_second"]
        limit = 2 * (1 - 1 / (devices * ranks)) * WEIGHTS * 4 / (12.5e6 * ETHERNET)
        print(
            f"{devices:7}  {ranks:5}  {report['share_of_core']:13.3g}"
            f"  {chosen['seconds'] * pace:5.2f} s  {ring['seconds'] * pace:.2f} s  {limit:.2f} s"
        )
    print("\n6 devices of one rank against one rank")
    cfg = str(ROOT / "jobs" / "cfg" / "bccd-tiny.cfg")
    verb = ["-m", "mpitile", "check", cfg, "--grid", "2x3", "--size", "96x96"]
    print(emulated(verb, 6, 1, "100mbit")[0])


def first_rank(devices: int, ranks: int, rate: str, *role: str) -> tuple[dict, dict]:
    """What rank 0 of this file in another role prints, and the report of emulate.py."""
    out, report = emulated([__file__, *role], devices, ranks, rate)
    return json.loads(out), report


def measure_link() -> None:
    """Two ranks: half a round trip of 8 bytes, and a message one way and both ways at once."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    other = 1 - comm.rank
    small, out, into = np.zeros(1), np.zeros(MESSAGE, np.uint8), np.zeros(MESSAGE, np.uint8)

    def ping_pong():
        for turn in (0, 1):
            if comm.rank == turn:
                comm.Send(small, other)
            else:
                comm.Recv(small, other)

    def one_way():
        if comm.rank == 0:
            comm.Send(out, other)
            comm.Recv(small, other)
        else:
            comm.Recv(into, other)
            comm.Send(small, other)

    def both_ways():
        comm.Sendrecv(out, other, recvbuf=into, source=other)

    found = {
        "latency": _timed(comm, ping_pong, 200) / 2,
        "one_way": MESSAGE / _timed(comm, one_way, ROUNDS),
        "both_ways": MESSAGE / _timed(comm, both_ways, ROUNDS),
    }
    if comm.rank == 0:
        print(json.dumps(found))


def measure_sum(algorithm: str = "0") -> None:
    """All ranks: seconds of an all-reduce by Open MPI's algorithm of that number."""
    os.environ["OMPI_MCA_coll_libnbc_iallreduce_algorithm"] = algorithm  # noqa: SIM112
    from mpi4py import MPI

    from mpitile.comm.mpi import MpiCommunicator

    comm = MpiCommunicator(MPI.COMM_WORLD)
    array = np.ones(WEIGHTS, np.float32)
    seconds = _timed(MPI.COMM_WORLD, lambda: comm.sum(array), SUM_ROUNDS)
    if comm.rank == 0:
        print(json.dumps({"seconds": seconds}))


def _timed(comm, work, rounds: int) -> float:
    """Median seconds of `work` after a barrier."""
    seconds = []
    for _ in range(rounds):
        comm.Barrier()
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _bits(rate: str) -> float:
    return float(rate.rstrip("gmbit")) * (1e9 if rate.endswith("gbit") else 1e6)


ROLES = {"link": measure_link, "sum": measure_sum}

if __name__ == "__main__":
    main()
