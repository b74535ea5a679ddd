# Makes .venv with this checkout in it; sourced, not run. From the project's root:
#
#     . jobs/setup.sh
#     set_up mpi rich        # names of extras of pyproject.toml
#
# puts .venv/bin first in PATH. What is there already is left alone, so a second call takes
# no time; compiled kernels are made anew when their sources have changed.
#
#     PYTHON         the Python that .venv is made with; it must be 3.11 or later
#     MPITILE_VENV   another folder than .venv
#     MPITILE_MPI    "system" takes the machine's Open MPI or MPICH instead of extra mpi;
#                    use it with a .venv of its own

# A module system's packages must not shadow those of .venv.
unset PYTHONPATH PYTHONHOME

set_up() {
    local venv=${MPITILE_VENV:-.venv} wanted
    wanted=$(_wanted_extras "$@")
    _make_venv "$venv" || return
    _install "$venv" "$wanted" || return
    venv=$(cd "$venv" && pwd)
    export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
    _fit_mpi
}

# mpi4py comes compiled for the library names that Open MPI and MPICH's ABI agreed upon. A
# system may call its library otherwise, as Debian does MPICH's; then mpi4py is compiled.
_fit_mpi() {
    if ! command -v mpirun >/dev/null; then
        echo "no mpirun found: install Open MPI or MPICH, or leave MPITILE_MPI unset" >&2
        return 1
    fi
    if ! python -c "from mpi4py import MPI" >/dev/null 2>&1; then
        echo "compiling mpi4py for the system's MPI"
        python -m pip install --quiet --force-reinstall --no-deps --no-binary mpi4py mpi4py
    fi
}

_wanted_extras() {
    local extra
    for extra in "$@"; do
        [ "$extra" = mpi ] && [ "${MPITILE_MPI:-}" = system ] || echo "$extra"
    done
}

_make_venv() {
    local venv=$1 python
    if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        if [ -n "${PYTHON:-}" ] && [ "$(_version "$PYTHON")" != "$(_version "$venv/bin/python")" ]
        then
            echo "$venv has $(_version "$venv/bin/python"), PYTHON=$PYTHON is" \
                "$(_version "$PYTHON"): remove $venv or unset PYTHON" >&2
            return 1
        fi
        return 0
    fi
    python=$(_find_python) || return
    echo "making $venv with $(_version "$python")"
    "$python" -m venv --clear "$venv"
}

_version() {
    "$1" -c 'import platform; print("Python", platform.python_version())'
}

# The first Python that is new enough and can make environments.
_find_python() {
    local python candidates=(python3 python3.14 python3.13 python3.12 python3.11)
    if [ -n "${PYTHON:-}" ]; then
        candidates=("$PYTHON")
    fi
    for python in "${candidates[@]}"; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
    echo "no Python >= 3.11 with venv found (Debian: apt install python3-venv);" \
        "PYTHON=/path/to/python names another" >&2
    return 1
}

# Installs the checkout editable, and notes with which sources and extras.
_install() {
    local venv=$1 wanted=$2 note=$1/mpitile-installed sources extras current=no
    sources="$(_sources) ${MPITILE_NATIVE:-0} $PWD"
    if [ "$(head -n 1 "$note" 2>/dev/null)" = "$sources" ]; then
        current=yes
        if [ -z "$(comm -23 <(sort -u <<<"$wanted") <(tail -n +2 "$note" | sort -u))" ]; then
            return
        fi
    fi
    extras=$({ tail -n +2 "$note" 2>/dev/null; echo "$wanted"; } | sed '/^$/d' | sort -u)
    echo "installing mpitile[$(paste -sd, <<<"$extras")] into $venv"
    rm -f "$note"
    if [ "$current" = no ]; then
        # Times of files and a change of compiler flags can make old kernels look current.
        rm -rf build/cython mpitile/kernels/_*."$(_tag "$venv")".so
    fi
    # Built inside .venv: an isolated build would fetch NumPy and SciPy a second time.
    _build_requirements "$venv" >"$venv/mpitile-build-requires" &&
        "$venv/bin/python" -m pip install --quiet -r "$venv/mpitile-build-requires" || return
    if ! "$venv/bin/python" -m pip install --quiet --no-build-isolation \
        --editable ".[$(paste -sd, <<<"$extras")]"; then
        echo "the installation failed; kernels need a C compiler and Python's headers" \
            "(Debian: apt install gcc python3-dev)" >&2
        return 1
    fi
    printf '%s\n' "$sources" "$extras" >"$note"
}

# A checksum of all that kernels are compiled from.
_sources() {
    cat pyproject.toml setup.py kernels/*.p* kernels/simd/* | cksum
}

# What the names of this Python's compiled modules end with, but for ".so".
_tag() {
    "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))'
}

_build_requirements() {
    "$1/bin/python" - <<'PYTHON'
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")
PYTHON
}
