"""Copies of shards on neighbouring devices: a run outlives the loss of any one of its devices.

Each rank sends the shard that it has written to a rank of the next device, which keeps the copy
beside its own shard. Where a shard is missing or damaged later, its copy is sent back before
shards are read. (The scheme is that of SCR's partner copies.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from mpitile.checkpoint.files import file_digest, reason, replace_file
from mpitile.comm.agree import together
from mpitile.comm.communicator import Communicator
from mpitile.errors import InputError
from mpitile.plan.clusters.devices import Devices

# Bytes that are sent at a time.
_BLOCK = 1 << 20

# A file and a rank that it goes to or comes from.
_Addressed = tuple[Path, int]


def keepers(devices: Devices) -> tuple[int, ...]:
    """For each rank the one of the next device that keeps a copy of its shard.

    Empty where all ranks are on one device.
    """
    if len(devices) == 1:
        return ()
    found = [0] * devices.rank_count
    for number, ranks in enumerate(devices.ranks):
        others = devices.ranks[(number + 1) % len(devices)]
        for position, rank in enumerate(ranks):
            found[rank] = others[position % len(others)]
    return tuple(found)


def copy_name(shard: str) -> str:
    """What the copy of a shard is called, in the same folder on its keeper's device."""
    return shard.replace("shard", "copy")


def copy_shards(
    folder: Path, world: Communicator, keepers: Sequence[int], digests: Mapping[str, str]
) -> None:
    """Let each rank's keeper write a copy of its shard. Collective.

    Parameters
    ----------
    digests : of each rank's shard by its name, in rank order; all are on disk.

    Raises
    ------
    InputError : on all ranks, where any of them cannot read or write.
    """
    names = list(digests)
    # A keeper of several takes one after the other, which have no other keeper meanwhile.
    turns = [keepers[:rank].count(keeper) for rank, keeper in enumerate(keepers)]
    for turn in range(max(turns) + 1):
        sent = received = None
        for rank, keeper in enumerate(keepers):
            if turns[rank] == turn and world.rank == rank:
                sent = (folder / names[rank], keeper)
            if turns[rank] == turn and world.rank == keeper:
                received = (folder / copy_name(names[rank]), rank)
        expected = digests[names[received[1]]] if received else None
        _transfer(world, sent, received, expected)


def restore_shards(folder: Path, world: Communicator, digests: Mapping[str, str]) -> list[str]:
    """Write shards anew from their copies where these are whole and the shards are not. Collective.

    A rank looks for the shard of its own number; of more shards than ranks for several of them.

    Returns
    -------
    The names of those shards, the same on all ranks.

    Raises
    ------
    InputError : on all ranks, where any of them cannot read or write.
    """
    names = list(digests)
    own = names[world.rank :: world.size]
    lost = [name for name in own if not _is_whole(folder / name, digests[name])]
    wanted = [(rank, name) for rank, some in enumerate(world.allgather(lost)) for name in some]
    offered = [_is_whole(folder / copy_name(name), digests[name]) for _, name in wanted]
    offers = world.allgather(offered)
    restored = []
    for number, (target, name) in enumerate(wanted):
        holders = [rank for rank in range(world.size) if offers[rank][number]]
        if not holders:
            continue
        source = target if target in holders else holders[0]
        sent = (folder / copy_name(name), target) if world.rank == source else None
        received = (folder / name, source) if world.rank == target else None
        _transfer(world, sent, received, digests[name])
        restored.append(name)
    return restored


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return file_digest(path) == digest
    except OSError:
        return False


def _transfer(
    world: Communicator,
    sent: _Addressed | None,
    received: _Addressed | None,
    digest: str | None,
) -> None:
    """Send a file to another rank, and write what a third one sends. Collective.

    Parameters
    ----------
    digest : expected of the received file.

    Raises
    ------
    InputError : on all ranks, where any of them cannot read or write.
    """
    failures: list[InputError] = []
    with ExitStack() as stack:
        file = together(world, lambda: _open(stack, sent))
        blocks = _blocks(world, file, sent, received, failures)
        try:
            if received:
                replace_file(received[0], lambda temporary: _write(temporary, blocks))
        except OSError as error:
            failures.append(_error(received[0], "written", error))
        finally:
            # Where a rank cannot write, others still have to get rid of theirs.
            for _ in blocks:
                pass
    # What has gone wrong comes before what it has led to.
    together(world, lambda: _raise_first(failures))
    together(world, lambda: _check(received, digest))


def _open(stack: ExitStack, sent: _Addressed | None) -> BinaryIO | None:
    if sent is None:
        return None
    try:
        return stack.enter_context(sent[0].open("rb"))
    except OSError as error:
        raise _error(sent[0], "read", error) from error


def _blocks(
    world: Communicator,
    file: BinaryIO | None,
    sent: _Addressed | None,
    received: _Addressed | None,
    failures: list[InputError],
) -> Iterator[bytes]:
    """What the received file is made of, while the sent one travels. Collective."""
    target = sent and sent[1]
    source = received and received[1]
    going = True
    while any(world.allgather(going)):
        block = b""
        try:
            block = file.read(_BLOCK) if file else b""
        except OSError as error:
            failures.append(_error(sent[0], "read", error))
        going = bool(block)
        yield world.swap(block, target, source) or b""


def _write(path: Path, blocks: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)


def _raise_first(failures: Sequence[InputError]) -> None:
    if failures:
        raise failures[0]


def _check(received: _Addressed | None, digest: str | None) -> None:
    if received and not _is_whole(received[0], digest):
        raise InputError(f"{received[0]}: other than what rank {received[1]} sent")


def _error(path: Path, what: str, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be {what}: {reason(error)}")
