#!/usr/bin/env bash
# Compiles the kernels for 64-bit Arm and tests there what depends on them, on a machine of
# another kind: in a Debian system under user-mode emulation. Not part of tests/run.sh.
#
#     sudo bash tests/arm64.sh
#
# Needs Debian's or Ubuntu's packages debootstrap and qemu-user-static, and for a new system
# the network. The first run makes the system and takes some 20 minutes, later ones half.
#
#     MPITILE_ARM_ROOT   the folder that keeps it (default: mpitile/arm64 in ~/.cache)
#     MPITILE_EXAMPLES   random examples of the exactness tests, see tests/conftest.py
#     PYTHON             the Python whose pip fetches the wheels (default python3)
set -euo pipefail
cache=$(realpath -m "${MPITILE_ARM_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/mpitile/arm64}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

release=bookworm
python_version=3.11
root=$cache/debian
formats=/proc/sys/fs/binfmt_misc
format=$formats/qemu-aarch64

stop() {
    echo "tests/arm64.sh: $*" >&2
    exit 1
}

[ "$(uname -m)" != aarch64 ] || stop "this machine is 64-bit Arm already: run tests/run.sh"
[ "$(id -u)" = 0 ] || stop "needs root, to mount /proc and to change into the Debian system"
for program in debootstrap dpkg-deb unshare chroot; do
    command -v "$program" >/dev/null || stop "no $program found (apt install debootstrap)"
done
"${PYTHON:-python3}" -m pip --version >/dev/null 2>&1 ||
    stop "no pip: PYTHON names a Python that has it"

# Mounts made in a name space of its own end with the script, however that ends.
if [ -z "${MPITILE_ARM_UNSHARED:-}" ]; then
    unshare --mount true 2>/dev/null || stop "this system lets nothing be mounted"
    export MPITILE_ARM_UNSHARED=1 MPITILE_ARM_ROOT=$cache
    exec unshare --mount bash tests/arm64.sh
fi

# Has Linux run programs for Arm by QEMU, until the end.
emulate() {
    [ -e "$formats/register" ] || mount -t binfmt_misc binfmt_misc "$formats" ||
        stop "this system has no binfmt_misc"
    if [ ! -e "$format" ]; then
        local entry=/usr/lib/binfmt.d/qemu-aarch64.conf
        [ -e "$entry" ] || stop "no $entry (apt install qemu-user-static)"
        trap 'echo -1 >"$format"' EXIT
        cat "$entry" >"$formats/register"
    fi
    grep -q "^flags:.*F" "$format" || stop "$format: without flag F it has no effect in a root"
}

# Only unpacked: the packages' own scripts take minutes under emulation and none is needed.
make_system() {
    local deb packages=python3-dev,python3-venv,gcc,libc6-dev
    rm -rf "$root" "$root.part"
    mkdir -p "$root.part"
    echo "fetching Debian for arm64 into $cache"
    debootstrap --foreign --arch=arm64 --variant=minbase --include="$packages" \
        "$release" "$root.part" >"$cache/debootstrap.log" ||
        stop "debootstrap failed, see $cache/debootstrap.log"
    for deb in "$root.part"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root.part"
    done
    # A link to /proc, which would have the host's hidden.
    rm -rf "$root.part/proc"
    mkdir -p "$root.part/proc" "$root.part/sys" "$root.part/dev"
    echo "root:x:0:0:root:/root:/bin/sh" >"$root.part/etc/passwd"
    echo "root:x:0:" >"$root.part/etc/group"
    mv "$root.part" "$root"
}

mount_system() {
    mount -t proc proc "$root/proc"
    # Open MPI looks up cores in /sys.
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
}

# A command in the system, in the checkout's copy.
inside() {
    chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/venv/bin:/usr/bin:/bin \
        ${MPITILE_EXAMPLES+MPITILE_EXAMPLES="$MPITILE_EXAMPLES"} \
        sh -c 'cd /checkout && . jobs/env.sh && exec "$@"' sh "$@"
}

# What is compiled already stays and is made anew only where sources have changed.
copy_checkout() {
    mkdir -p "$root/checkout"
    find "$root/checkout" -type f ! -name "*.so" ! -name "*.o" ! -name "*.c" -delete
    tar -c --exclude="*.so" --exclude=__pycache__ \
        jobs kernels mpitile tests MANIFEST.in README.md pyproject.toml setup.py |
        tar -x -C "$root/checkout"
}

# The wheels come by the host's pip, which is faster and knows the host's index and proxy.
install_requirements() {
    local wanted
    wanted=$(inside python3 - <<'PYTHON'
import tomllib
with open("pyproject.toml", "rb") as file:
    settings = tomllib.load(file)
project = settings["project"]
extras = [name for extra in ("mpi", "test") for name in project["optional-dependencies"][extra]]
print(*settings["build-system"]["requires"], *project["dependencies"], *extras, sep="\n")
PYTHON
    )
    if [ "$(cat "$root/venv/installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "fetching and installing wheels for aarch64"
    mkdir -p "$root/wheels"
    echo "$wanted" >"$root/wheels/requirements"
    "${PYTHON:-python3}" -m pip download --quiet --dest "$root/wheels" \
        --only-binary=:all: --python-version "$python_version" --platform manylinux_2_28_aarch64 \
        --platform manylinux2014_aarch64 --requirement "$root/wheels/requirements"
    rm -rf "$root/venv"
    inside python3 -m venv /venv
    inside python -m pip install --quiet --no-index --find-links /wheels \
        --requirement /wheels/requirements
    echo "$wanted" >"$root/venv/installed"
}

took() {
    echo "    $((SECONDS - since)) s"
    since=$SECONDS
}

since=0
emulate
[ -e "$root" ] || make_system
mount_system
copy_checkout
install_requirements
took

echo "compiling for $(inside uname -m)"
# Without what debuggers need, which Debian's Python asks for, compilers take a third less time.
inside env CFLAGS=-g0 python -m pip install --quiet --no-build-isolation --no-index --no-deps \
    --force-reinstall .
# In the folder where tests start it would come before the installed package.
rm -r "$root/checkout/mpitile"
took

status=0
prove() {
    echo "== $*"
    inside "$@" || status=1
    took
}

prove mpirun -np 2 mpitile check jobs/cfg/bccd-tiny.cfg --grid 1x2 --size 64x64
prove pytest -q tests/kernels
prove pytest -q tests/runtime
exit "$status"
