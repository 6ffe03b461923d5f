#!/bin/sh
# Looks for the four things moretta cannot install by itself and says how to get each one that is missing.
# usage: require.sh PYTHON      (PYTHON is what the Makefile found, possibly nothing)
set -eu
python=${1:-}
missing=0

need() { # what, why, how
    printf 'moretta needs %s (%s).\n    %s\n' "$1" "$2" "$3" >&2
    missing=1
}

if [ -z "$python" ]; then
    need "Python 3.11 or newer" "none found on PATH" \
        "Debian, Ubuntu: apt-get install python3 python3-venv; elsewhere: https://www.python.org/downloads/; then run make again, or make PYTHON=/path/to/python3"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    need "Python 3.11 or newer" "$python is older, or does not run" "choose another with make PYTHON=/path/to/python3"
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    need "the Python modules venv and ensurepip" "$python lacks them" \
        "Debian, Ubuntu: apt-get install python3-venv"
fi

if ! command -v cargo >/dev/null 2>&1; then
    need "a Rust toolchain, 1.88 or newer" "cargo is not on PATH" \
        "https://rustup.rs, then open a new shell so that ~/.cargo/bin is on PATH"
else
    rust=$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
    minor=$(printf '%s' "$rust" | cut -d. -f2)
    case $rust in
    1.*) [ "$minor" -ge 88 ] || need "Rust 1.88 or newer" "rustc is $rust" "rustup update stable" ;;
    "") need "a working rustc" "rustc does not run" "rustup default stable" ;;
    esac
fi

if ! command -v cc >/dev/null 2>&1 && ! command -v gcc >/dev/null 2>&1 && ! command -v clang >/dev/null 2>&1; then
    need "a C compiler" "cc is not on PATH; the TLS library has C parts" "Debian, Ubuntu: apt-get install gcc libc6-dev"
fi

[ "$(uname -s)" = Linux ] || need "Linux" "this is $(uname -s); other systems are planned, not there" "use a Linux machine or container"

exit $missing
