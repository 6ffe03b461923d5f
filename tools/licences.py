"""Compare the licence of every dependency with the allow list of deny.toml.

Rust packages come from `cargo metadata`, Python packages from the installed environment. Tools that only build or test
(`DEVELOPMENT_ONLY`) may carry a weak copyleft licence: nothing of them is shipped.
"""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Licences beyond the list, for packages that a plain `pip install moretta` never brings.
DEVELOPMENT_ONLY = {
    "certifi": "MPL-2.0",  # aioquic, for the demo
    "hypothesis": "MPL-2.0",
    "pathspec": "MPL-2.0",  # mypy
}

# What packages wrote before licence expressions existed, in lower case.
OLD_NAMES = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd-2-clause license": "BSD-2-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the mit license (mit)": "MIT",
}


def permitted(expression: str, allowed: set[str]) -> bool:
    """Evaluate an SPDX expression: one arm of every OR and both arms of every AND must be allowed."""
    # Old crates separate alternatives with a slash.
    tokens: list[str] = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def either() -> bool:
        value = both()
        while peek() == "OR":
            take()
            value = both() or value
        return value

    def both() -> bool:
        value = single()
        while peek() == "AND":
            take()
            value = single() and value
        return value

    def single() -> bool:
        if peek() == "(":
            take()
            value = either()
            take()
            return value
        name = take()
        if peek() == "WITH":
            take()
            name = f"{name} WITH {take()}"
        return name in allowed

    return bool(tokens) and either() and position == len(tokens)


def rust_packages() -> dict[str, str]:
    """`name version` → licence expression of every package of Cargo.lock but our own."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    document = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return {
        f"{package['name']} {package['version']}": package["license"] or "none given"
        for package in document["packages"]
        if package["source"]
    }


def python_packages() -> dict[str, str]:
    """`name version` → licence expression of every installed distribution but our own."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        fields = distribution.metadata
        if fields["Name"] == "moretta":
            continue
        given = fields["License-Expression"]
        if not given:
            classifiers = fields.get_all("Classifier") or []
            names = [line.rsplit(" :: ", 1)[1] for line in classifiers if line.startswith("License :: OSI")]
            if not names:
                names = [(fields["License"] or "none given").splitlines()[0].strip()]
            given = " OR ".join(f"({OLD_NAMES.get(name.lower(), name)})" for name in names)
        found[f"{fields['Name']} {distribution.version}"] = given
    return found


def main() -> int:
    with (ROOT / "deny.toml").open("rb") as file:
        allowed = set(tomllib.load(file)["licenses"]["allow"])
    refused = 0
    counts = []
    for kind, packages in (("Rust", rust_packages()), ("Python", python_packages())):
        counts.append(f"{len(packages)} {kind}")
        for package, licence in sorted(packages.items()):
            extra = DEVELOPMENT_ONLY.get(package.split()[0].lower())
            if not permitted(licence, allowed | ({extra} if extra else set())):
                print(f"{kind} package {package}: licence {licence!r} is not in the allow list of deny.toml")
                refused += 1
    print(f"licences: {' and '.join(counts)} packages, {refused} refused")
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main())
