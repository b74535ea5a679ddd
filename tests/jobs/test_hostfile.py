"""What the script for several hosts hands to each MPI's mpirun."""

import os
import sys
from pathlib import Path

import pytest
from launch import run

SCRIPT = Path(__file__).parents[2] / "jobs" / "hostfile.sh"

# In place of mpirun: its version, else its arguments and the hostfile among them.
_MPIRUN = """#!{python}
import sys
if "--version" in sys.argv:
    print("{version}")
else:
    print(*sys.argv[1:])
    flag = "--hostfile" if "--hostfile" in sys.argv else "-f"
    print(open(sys.argv[sys.argv.index(flag) + 1]).read(), end="")
    sys.exit(7)
"""
OPEN_MPI, MPICH = "mpirun (Open MPI) 5.0.8", "HYDRA build details"


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    """Nobody has said how to wait."""
    monkeypatch.delenv("MPITILE_WAIT", raising=False)


def start(folder, hosts, version, *arguments, **env):
    (folder / "hosts").write_text(hosts)
    for name, text in (
        ("mpirun", _MPIRUN.format(python=sys.executable, version=version)),
        ("mpitile", "#!/bin/sh\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", **env}
    return run(["bash", SCRIPT, folder / "hosts", *arguments], timeout=60, env=env)


@pytest.mark.parametrize(
    "version, lines, option",
    [(OPEN_MPI, ["pi1 slots=4", "pi2 slots=2"], "-x"), (MPICH, ["pi1:4", "pi2:2"], "-genv")],
    ids=["Open MPI", "MPICH"],
)
def test_ranks_and_options(tmp_path, version, lines, option):
    result = start(tmp_path, "pi1 slots=4\n\npi2:2  # slow\n", version, "my.toml", "--resume")
    assert result.code == 7, result
    said, command, *hosts = result.out.splitlines()
    assert said == "6 ranks on 2 host(s)"
    assert command.endswith("-np 6 mpitile train my.toml --resume")
    assert f"{option} OMP_NUM_THREADS" in command
    assert "MPITILE_WAIT" not in command
    assert hosts == lines


@pytest.mark.parametrize(
    "version, words",
    [(OPEN_MPI, "-x MPITILE_WAIT"), (MPICH, "-genv MPITILE_WAIT spin")],
    ids=["Open MPI", "MPICH"],
)
def test_all_hosts_wait_as_the_user_says(tmp_path, version, words):
    result = start(tmp_path, "pi1:4\n", version, "my.toml", MPITILE_WAIT="spin")
    assert words in result.out, result


@pytest.mark.parametrize(
    "hosts, words",
    [("pi1 slots=4\npi2\n", 'hosts:2: expected "name slots=N"'), ("# none\n", "names no host")],
)
def test_what_is_no_hostfile_is_named(tmp_path, hosts, words):
    result = start(tmp_path, hosts, OPEN_MPI, "my.toml")
    assert result.code == 2, result
    assert words in result.err
