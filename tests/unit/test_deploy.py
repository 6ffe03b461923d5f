"""The files of deploy/, held against the product that they run: nothing in them may be true of another version only."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moretta.cli import main
from moretta.cli.output import CONFIGURATION
from moretta.config import load
from moretta.config.model import Engine

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
INSTALLED = "/opt/moretta/bin/moretta"
#: In tenths, as systemd-analyze counts; what remains is the network, without which it would be no gateway.
HIGHEST_EXPOSURE = 20


def unit() -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "moretta.service").read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def container() -> dict[str, list[str]]:
    """The instructions of the last stage, and those that copy in the first."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    instructions: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            instructions.setdefault(name, []).append(rest.strip())
    return instructions


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not on this machine")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze is older than version 250 and cannot judge a file by itself")
    return done


@pytest.fixture
def installed_unit(tmp_path: Path) -> Path:
    """The unit as it would be here: systemd looks whether its programs are there."""
    text = (DEPLOY / "moretta.service").read_text()
    assert INSTALLED in text
    path = tmp_path / "moretta.service"
    path.write_text(text.replace(INSTALLED, str(Path(sys.executable).with_name("moretta"))))
    return path


@pytest.fixture
def made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A configuration made with the words of deploy/README.md, for a machine with a reachable address."""
    words = re.search(rf"^{INSTALLED} (init /etc/moretta .+)$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    assert words
    assert main(shlex.split(words[1].replace("/etc/moretta", str(tmp_path)))) == 0
    capsys.readouterr()
    return tmp_path / "moretta.toml"


def test_the_readme_names_every_file_and_no_other() -> None:
    readme = (DEPLOY / "README.md").read_text()
    files = {path.name for path in DEPLOY.iterdir()} - {"README.md"}

    assert set(re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE)) == files
    assert set(re.findall(r"deploy/([A-Za-z.]+)", readme)) == files


# systemd


def test_systemd_finds_nothing_wrong_with_the_unit(installed_unit: Path) -> None:
    done = systemd_analyze("verify", "--recursive-errors=no", installed_unit)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_exposes_no_more_than_a_gateway_must(installed_unit: Path) -> None:
    done = systemd_analyze("security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE}", installed_unit)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_starts_and_checks_the_configuration_that_the_readme_makes(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, (check, signal) = unit()["ExecStart"][0], unit()["ExecReload"]
    assert shlex.split(start) == [INSTALLED, "serve", "--config", "/etc/moretta/moretta.toml"]
    assert signal == "/bin/kill -HUP $MAINPID"

    arguments = shlex.split(check.replace("/etc/moretta", str(made.parent)))
    assert arguments[0] == INSTALLED
    assert main(arguments[1:]) == 0
    assert "chmod" not in capsys.readouterr().err
    made.write_text(made.read_text().replace("certificate", "certifcate"))
    assert main(arguments[1:]) == CONFIGURATION


def test_a_gateway_that_cannot_start_is_not_started_again_and_again() -> None:
    assert unit()["Restart"] == ["on-failure"]
    assert str(CONFIGURATION) in unit()["RestartPreventExitStatus"][0].split()


def test_the_unit_leaves_a_drain_its_time() -> None:
    drain = Engine().drain_timeout_seconds

    assert float(unit()["TimeoutStopSec"][0]) >= drain + 5
    stop = re.search(r"--stop-timeout (\d+)", (DEPLOY / "README.md").read_text())
    assert stop
    assert float(stop[1]) >= drain + 5


def test_the_unit_allows_the_descriptors_that_the_limits_ask_for(made: Path) -> None:
    assert int(unit()["LimitNOFILE"][0]) >= 2 * load(made, environment={}).config.limits.max_tunnels


def test_the_group_of_the_unit_is_the_one_that_is_made_and_named() -> None:
    (group,) = unit()["SupplementaryGroups"]

    assert f"\ng {group} -\n" in (DEPLOY / "moretta.sysusers.conf").read_text()
    assert f"chgrp {group} " in (DEPLOY / "README.md").read_text()


def test_the_kernel_may_grant_the_buffers_that_the_engine_asks_for() -> None:
    engine = (ROOT / "crates/moretta-io/src/socket.rs").read_text()
    asked = {
        name: int(mebibytes) << 20
        for name, mebibytes in re.findall(r"(receive|send)_buffer_bytes: (\d+) << 20,\n", engine.split("fn target")[0])
    }
    granted = dict(
        re.findall(r"^net\.core\.(rmem|wmem)_max = (\d+)$", (DEPLOY / "moretta.sysctl.conf").read_text(), re.MULTILINE)
    )

    assert asked.keys() == {"receive", "send"}
    assert (int(granted["rmem"]), int(granted["wmem"])) == (asked["receive"], asked["send"])


# Container


def test_the_image_copies_what_is_there() -> None:
    here = [words for words in container()["COPY"] if "--from" not in words]
    missing = [name for words in here for name in words.split()[:-1] if not (ROOT / name).exists()]

    assert len(here) >= 4
    assert not missing


def test_the_build_sees_all_that_it_copies_and_none_of_our_artefacts() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    seen = [line[1:] for line in ignored if line.startswith("!")]
    copied = [name for words in container()["COPY"] if "--from" not in words for name in words.split()[:-1]]

    assert ignored[1] == "**"
    assert not [name for name in copied if not any(Path(name).match(pattern) for pattern in seen)]
    assert {"**/*.so", "**/__pycache__"} <= set(ignored)


def test_the_image_is_not_root_and_ends_by_draining() -> None:
    instructions = container()

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions["USER"][-1])
    assert instructions["STOPSIGNAL"] == ["SIGTERM"]
    assert instructions["EXPOSE"] == ["4433/udp"]
    assert instructions["ENTRYPOINT"] == ['["moretta"]']
    assert instructions["CMD"] == ['["serve", "--config", "/etc/moretta/moretta.toml"]']


def test_the_image_is_built_with_a_toolchain_that_is_new_enough() -> None:
    (image,) = re.findall(r"rust:1\.(\d+)-", container()["FROM"][0])
    (needed,) = re.findall(r'^rust-version = "1\.(\d+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)

    assert int(image) >= int(needed)
