#!/usr/bin/env bash
# Trains on all hosts of a hostfile, with Open MPI or MPICH:
#
#     bash jobs/hostfile.sh HOSTFILE RUN.toml [--resume] [--set section.key=value ...]
#
# HOSTFILE has a line for each host, "pi1 slots=4" or "pi1:4"; a slot is one rank, and there
# should be as many as the host has cores. Ranks are numbered host by host, so that the
# neighbours of a tile lie on one host where possible. mpitile has to be installed under the
# same path on all hosts, and ssh has to reach them without a password.
# Where a host has several networks, name the right one first:
#
#     export OMPI_MCA_btl_tcp_if_include=192.168.1.0/24      (Open MPI)
#     export HYDRA_IFACE=eth0                                (MPICH)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/jobs/env.sh"

usage_error() {
    echo "hostfile.sh: $1" >&2
    exit 2
}

# The hostfile's lines as "name slots".
read_hosts() {
    awk -v file="$1" '
        { sub(/#.*/, "") }
        NF == 0 { next }
        {
            name = $1; slots = ""
            if (match(name, /:[0-9]+$/)) {
                slots = substr(name, RSTART + 1); name = substr(name, 1, RSTART - 1)
            }
            for (field = 2; field <= NF; field++)
                if ($field ~ /^slots=[0-9]+$/) slots = substr($field, 7)
            if (slots + 0 < 1) {
                printf "hostfile.sh: %s:%d: expected \"name slots=N\" or \"name:N\", got \"%s\"\n",
                    file, NR, $0 >"/dev/stderr"
                exit 2
            }
            print name, slots
        }' "$1"
}

[ $# -ge 2 ] || usage_error "usage: bash jobs/hostfile.sh HOSTFILE RUN.toml [mpitile options]"
hostfile=$1
shift
[ -r "$hostfile" ] || usage_error "$hostfile: cannot be read"
hosts=$(read_hosts "$hostfile")
[ -n "$hosts" ] || usage_error "$hostfile: names no host"
ranks=$(awk '{ sum += $2 } END { print sum }' <<<"$hosts")

if ! command -v mpitile >/dev/null; then
    export PATH="$root/.venv/bin:$PATH"
fi
command -v mpitile >/dev/null || usage_error "mpitile is not installed (no $root/.venv either)"
# By its full path Open MPI finds its other programs beside it on every host.
mpirun=$(command -v mpirun) || usage_error "no mpirun found: pip install 'mpitile[mpi]'"

# The hostfile as this MPI writes it, and the options that this MPI has.
machines=$(mktemp)
trap 'rm -f "$machines"' EXIT
forwarded=(PATH OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS)
if [ -n "${MPITILE_WAIT:-}" ]; then
    forwarded+=(MPITILE_WAIT)
fi
options=()
case $("$mpirun" --version 2>&1) in
    *"Open MPI"*)
        mpi="Open MPI"
        awk '{ print $1 " slots=" $2 }' <<<"$hosts" >"$machines"
        options=(--hostfile "$machines" --map-by slot --bind-to core:overload-allowed)
        for name in "${forwarded[@]}"; do
            options+=(-x "$name")
        done
        ;;
    *)
        mpi=MPICH
        awk '{ print $1 ":" $2 }' <<<"$hosts" >"$machines"
        options=(-f "$machines" -bind-to core)
        for name in "${forwarded[@]}"; do
            options+=(-genv "$name" "${!name}")
        done
        ;;
esac

echo "$ranks ranks on $(wc -l <<<"$hosts") host(s)"
# In a process group of its own, so that Ctrl-C reaches this script alone.
set -m
"$mpirun" "${options[@]}" -np "$ranks" mpitile train "$@" </dev/null &
job=$!
set +m

# mpirun hands USR1 on, and every rank saves and ends with 3; asked twice, it ends at once.
signal=USR1
stop() {
    kill -"$signal" "$job" 2>/dev/null || true
    signal=TERM
}
trap stop USR1 TERM INT

# A signal ends a wait early.
while kill -0 "$job" 2>/dev/null; do
    wait "$job" || true
done
status=0
wait "$job" || status=$?
# MPICH's mpirun, having handed on a signal, may end with 0 whatever its ranks end with.
if [ "$status" = 0 ] && [ "$signal" = TERM ] && [ "$mpi" = MPICH ]; then
    status=3
fi
exit "$status"
