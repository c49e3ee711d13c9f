#!/bin/sh
# Sets up .venv beside this file, adding what a command needs when it is first given, and runs something in it:
#
#   sh dev.sh demo  [arguments of examples/survey/demo.py; --serve shows the logs in the browser]
#   sh dev.sh rest-demo  [arguments of examples/survey/rest_demo.py]
#   sh dev.sh test  [arguments of pytest; without any the suite runs in several processes side by side]
#   sh dev.sh coverage  [arguments of pytest]
#   sh dev.sh bench [arguments of benchmarks/hot_path.py]
#
# Needs Python 3.11 or newer, and pip 22.3 or newer (or uv). Everything else comes from the package index.
# JOBLOG_VENV names another folder for the virtual environment.

set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
cd -- "$root"
venv=${JOBLOG_VENV:-.venv}
case $venv in /*) ;; *) venv=$root/$venv ;; esac
log=
# One more than there are processors, as tests wait a lot for servers; the tests of a file share some.
side_by_side=$(($(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1))
# The tests start hundreds of interpreters, which do not compile everything anew if they may keep what they compiled.
unset PYTHONDONTWRITEBYTECODE

say() { printf 'dev.sh: %s\n' "$*" >&2; }

fail() {
    say "$1"
    say "If Python or pip is missing or too old, on Debian or Ubuntu:  apt-get install -y python3 python3-venv python3-pip"
    exit 1
}

runs() { # runs PYTHON: it starts (a pyenv shim may not) and is new enough
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1
}

candidates() { printf '%s\n' python3 python3.14 python3.13 python3.12 python3.11 python; }

find_python() { # prints the first candidate that runs
    candidates | while IFS= read -r python; do
        if runs "$python"; then
            printf '%s\n' "$python"
            break
        fi
    done
}

find_pip() { # prints the first Python whose pip works on the new environment; it may be too old to
    candidates | while IFS= read -r python; do
        if "$python" -m pip --python "$venv/bin/python" list </dev/null >/dev/null 2>&1; then
            printf '%s\n' "$python"
            break
        fi
    done
}

quietly() { # quietly COMMAND...: keeps the output for the case that it fails
    "$@" </dev/null >>"$log" 2>&1
}

make_venv() {
    python=$(find_python)
    if [ -n "$python" ]; then
        # Without pip, because Debian's python3 has no ensurepip unless python3-venv is there.
        quietly "$python" -m venv --clear --without-pip "$venv" && return
    fi
    if have_uv; then
        quietly uv venv --clear --python "${python:->=3.11}" "$venv" && return
    fi
    cat "$log" >&2
    if [ -z "$python" ]; then fail "No Python 3.11 or newer was found."; fi
    fail "$python could not make a virtual environment in $venv (JOBLOG_VENV names another folder)."
}

have_uv() { command -v uv >/dev/null 2>&1 && uv --version </dev/null >/dev/null 2>&1; }

install() { # install REQUIREMENT...
    if have_uv; then
        quietly uv pip install --python "$venv/bin/python" "$@" && return
        say "uv could not install; trying pip, which has an own configuration"
    fi
    pip=$(find_pip)
    if [ -n "$pip" ]; then
        # pip's own settings for "user" and the like do not apply to a virtual environment.
        PIP_USER=0 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
            quietly "$pip" -m pip --python "$venv/bin/python" install "$@" && return
    elif quietly "$venv/bin/python" -m ensurepip; then
        quietly "$venv/bin/python" -m pip install "$@" && return
    fi
    cat "$log" >&2
    fail "The packages could not be installed${pip:+; see above}."
}

prepare() { # prepare EXTRA: a second call with nothing changed ends at the first test
    stamp=$venv/.joblog-$1
    # The folder is part of it: a copied or moved tree must not run the code of the old one.
    wanted="$root $(cksum <pyproject.toml)"
    if runs "$venv/bin/python"; then
        if [ -f "$stamp" ] && [ "$(cat -- "$stamp")" = "$wanted" ]; then return; fi
    fi
    log=$(mktemp "${TMPDIR:-/tmp}/joblog-dev.XXXXXX")
    trap 'rm -f -- "$log"' EXIT
    trap 'exit 130' INT TERM HUP
    say "setting up $venv for '$1' (once; a minute or two)"
    runs "$venv/bin/python" || make_venv
    install -e ".[$1]"
    printf '%s' "$wanted" >"$stamp"
    rm -f -- "$log"
    trap - EXIT INT TERM HUP
}

usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$root/dev.sh"
    exit "$1"
}

[ $# -gt 0 ] || usage 2 >&2
command=$1
shift
case $command in
    demo)
        prepare demo
        exec "$venv/bin/python" examples/survey/demo.py "$@"
        ;;
    rest-demo)
        prepare rest-demo
        exec "$venv/bin/python" examples/survey/rest_demo.py "$@"
        ;;
    test)
        prepare dev
        [ $# -gt 0 ] || set -- -q -n "$side_by_side" --dist loadfile
        exec "$venv/bin/python" -m pytest "$@"
        ;;
    coverage)
        prepare dev
        wanted=0
        [ $# -gt 0 ] || { set -- -q -n "$side_by_side" --dist loadfile; wanted=95; }
        "$venv/bin/coverage" erase
        status=0
        "$venv/bin/coverage" run -m pytest "$@" || status=$?
        # Processes that were killed in the middle of writing leave a file that is none.
        "$venv/bin/coverage" combine --quiet 2>/dev/null || true
        "$venv/bin/coverage" report --fail-under="$wanted" || [ "$status" != 0 ] || status=$?
        exit "$status"
        ;;
    bench)
        prepare dev
        exec "$venv/bin/python" benchmarks/hot_path.py "$@"
        ;;
    help | -h | --help) usage 0 ;;
    *)
        say "unknown command '$command'"
        usage 2 >&2
        ;;
esac
