#!/bin/sh
# Runs the fuzz targets one after the other: fuzz.sh SECONDS [TARGET]. Findings stay in fuzz/artifacts, new inputs in fuzz/found.
set -eu
cd "$(dirname "$0")/.."
seconds=$1
only=${2:-}
version=0.13.2
tool=.tools/cargo-fuzz-$version

command -v cargo >/dev/null 2>&1 || { sh tools/require.sh python3; exit 1; }
cargo +nightly --version >/dev/null 2>&1 || {
    echo "fuzzing needs a nightly Rust toolchain (the sanitizer is not in the stable one): rustup toolchain install nightly" >&2
    exit 1
}
[ -x "$tool/bin/cargo-fuzz" ] || cargo install --quiet --locked --root "$tool" cargo-fuzz --version "$version"
PATH="$PWD/$tool/bin:$PATH"
export PATH

for source in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    [ -z "$only" ] || [ "$only" = "$target" ] || continue
    echo "fuzzing $target for $seconds s"
    # New inputs go to the first directory; the corpus under version control is only read.
    mkdir -p "fuzz/found/$target"
    cargo +nightly fuzz run --sanitizer "${SANITIZER:-address}" "$target" "fuzz/found/$target" "fuzz/corpus/$target" -- -max_total_time="$seconds" -rss_limit_mb=2048 -print_final_stats=1
done
