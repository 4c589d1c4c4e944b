#!/bin/sh
# Set up this checkout: `scripts/setup.sh run` for the service, `scripts/setup.sh dev` for its tests too. Safe to repeat; does
# nothing when everything is there. Needs Debian (or a relative) with Python 3.11 or later; installs the rest.
set -eu
cd "$(dirname "$0")/.."
mode=${1:-run}
python=${PYTHON:-python3}

say() { printf '%s\n' "setup: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        say "need root (or sudo) for: $*"
        exit 1
    fi
}

# Services that a package brings must not start on a developer's machine: the tests start their own.
without_services() {
    if [ -e /usr/sbin/policy-rc.d ]; then "$@"; return; fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
    as_root chmod 755 /usr/sbin/policy-rc.d
    status=0
    "$@" || status=$?
    as_root rm -f /usr/sbin/policy-rc.d
    return "$status"
}

install_packages() {
    [ $# -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "this is no Debian: install these yourself, then try again: $*"
        exit 1
    fi
    say "installing Debian packages: $*"
    as_root apt-get update -qq
    without_services as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# With the headers of the C library: Debian's gcc only recommends them.
compiler_works() {
    library=$(mktemp)
    status=0
    printf '#include <stdint.h>\n#include <string.h>\n' | ${CC:-cc} -x c -shared -fPIC -o "$library" - 2>/dev/null || status=$?
    rm -f "$library"
    return "$status"
}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "Python 3.11 or later is needed; set PYTHON=/path/to/python3.11"
    exit 1
fi

if [ "$mode" = dev ]; then
    missing=
    while read -r probe package; do
        case $probe in
        '' | '#'*) continue ;;
        -) dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package" ;;
        *) PATH="$PATH:/usr/sbin:/sbin" command -v "$probe" >/dev/null || missing="$missing $package" ;;
        esac
    done <scripts/debian-packages.txt
    # shellcheck disable=SC2086  # a list of words
    install_packages $(printf '%s\n' $missing | sort -u)
fi

lock=requirements.lock
[ "$mode" = run ] || lock=requirements-dev.lock
built=$(cat pyproject.toml hatch_build.py drivers/reencoding/*.[ch] | sha256sum | cut -c1-16)
stamp=".venv/.ready-$mode-$(sha256sum <"$lock" | cut -c1-16)-$built"
[ -e "$stamp" ] && [ -e drivers/reencoding/_native.so ] && exit 0

compiler_works || install_packages gcc libc6-dev
if ! [ -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
        rm -rf .venv
        install_packages python3-venv
        "$python" -m venv .venv
    fi
fi
say "installing Python packages from $lock"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# The lock is complete, so nothing is resolved: pip's resolver prefers a newer release of a package that is wanted with an
# extra (coverage[toml]) to the one that is pinned, and then stops because it has no hash.
.venv/bin/python -m pip install -q --no-deps --require-hashes --only-binary :all: -r "$lock"
.venv/bin/python -m pip install -q --no-deps --editable .
# Both modes share what is built: the other's stamp holds no longer if it is of other sources.
find .venv -maxdepth 1 \( -name ".ready-$mode-*" -o -name '.ready-*' ! -name "*-$built" \) -delete
: >"$stamp"
say "ready: .venv/bin/ics --help"
