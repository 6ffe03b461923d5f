#!/bin/sh
# The second filling of the HTTP/3 seam: `h3wire.sh test` or `h3wire.sh clippy`, for every crate that has the feature.
set -eu
cd "$(dirname "$0")/.."
packages=
for manifest in crates/*/Cargo.toml; do
    if grep -q '^h3wire *= *\[' "$manifest"; then
        packages="$packages -p $(basename "$(dirname "$manifest")")"
    fi
done
[ -n "$packages" ] || { echo "no crate has the feature h3wire"; exit 0; }
echo "with the feature h3wire:$packages"
case $1 in
# shellcheck disable=SC2086 # the list is words on purpose
test) exec cargo test --locked --quiet $packages --features h3wire ;;
# shellcheck disable=SC2086
clippy) exec cargo clippy --locked --quiet --all-targets $packages --features h3wire -- -D warnings ;;
*) echo "usage: h3wire.sh test|clippy" >&2; exit 2 ;;
esac
