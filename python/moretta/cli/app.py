"""The verbs and their options. Each imports what it needs when it runs, so that `moretta --help` is quick."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from moretta.environment import variables

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

app = typer.Typer(
    name="moretta",
    help="UDP through HTTP/3: a MASQUE gateway and client (RFC 9298).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Importing rich for the help alone would double its time.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

DEFAULT_CONFIG = Path("moretta.toml")

Json = Annotated[bool, typer.Option("--json", help="Print facts as one JSON document.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="Configuration file. Default: $MORETTA_CONFIG, else ./moretta.toml."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key over file and environment; may repeat."),
]
_GATEWAY = "Origin or URI template of the gateway. Default: $MORETTA_GATEWAY."
GatewayArgument = Annotated[str | None, typer.Argument(metavar="URL", help=_GATEWAY)]
#: For the verb whose arguments are a target.
GatewayOption = Annotated[str | None, typer.Option("--gateway", "-g", metavar="URL", help=_GATEWAY)]
Authorities = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Trust only the authorities in this PEM file. Default: $MORETTA_CA."),
]
Pin = Annotated[
    str | None,
    typer.Option("--pin", metavar="BASE64", help="Trust only a public key with this SHA-256, as curl's pins."),
]
ServerName = Annotated[
    str | None, typer.Option("--server-name", metavar="NAME", help="Name to verify instead of the URL's host.")
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Bound of each opening.")]


def _verb(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turn a function into a verb: its errors become sentences, and what it returns the exit code."""

    @functools.wraps(function)
    def verb(*args: P.args, **kwargs: P.kwargs) -> None:
        from moretta.cli import output
        from moretta.errors import MorettaError

        try:
            code = function(*args, **kwargs)
        except BrokenPipeError:
            raise
        except (MorettaError, OSError) as error:
            code = output.report(error)
        except KeyboardInterrupt:
            code = output.INTERRUPTED
        if code:
            raise typer.Exit(code)

    return verb


def _config_path(config: Path | None) -> Path:
    return config or Path(variables().get("MORETTA_CONFIG") or DEFAULT_CONFIG)


def _overrides(settings: list[str] | None) -> dict[str, str]:
    overrides = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            msg = f"{setting!r} is no KEY=VALUE, as in limits.max_tunnels=100"
            raise typer.BadParameter(msg, param_hint="--set")
        overrides[key.strip()] = value.strip()
    return overrides


@app.command()
@_verb
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the gateway up and say how to use it.")] = False,
    json: Json = False,
) -> int:
    """Carry HTTP/3 and DNS through tunnels on loopback.

    Real software at both ends; succeeds only if all of it held.
    """
    from moretta.demo import run

    return run(keep=keep, as_json=json)


@app.command()
@_verb
def init(
    directory: Annotated[Path, typer.Argument(help="Where the files go; made if missing.")] = Path(),
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="DNS name or address in the certificate; may repeat. Default: loopback."
        ),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option("--address", metavar="ADDRESS:PORT", help="Where to listen; may repeat. Default: 127.0.0.1:4433."),
    ] = None,
    danger_allow_anonymous: Annotated[
        bool,
        typer.Option("--danger-allow-anonymous", help="Needed for an address that other machines can reach."),
    ] = False,
    json: Json = False,
) -> None:
    """Make certificates and a configuration.

    An authority, a certificate for the gateway and a commented file; overwrites nothing.
    """
    from moretta.cli import init as implementation

    implementation.run(
        directory,
        names=tuple(name or ()),
        addresses=tuple(address or ()),
        danger_allow_anonymous=danger_allow_anonymous,
        as_json=json,
    )


@app.command()
@_verb
def serve(
    config: Config = None,
    setting: Settings = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, max=32, help="Worker threads. Default: one per core.")
    ] = None,
    json: Json = False,
) -> int:
    """Run the gateway.

    SIGHUP reloads the configuration, SIGTERM drains, a second one ends at once.
    """
    from moretta.cli import serve as implementation

    overrides = _overrides(setting)
    if workers is not None:
        overrides["engine.workers"] = str(workers)
    return implementation.run(_config_path(config), overrides, as_json=json)


@app.command()
@_verb
def check(config: Config = None, setting: Settings = None, json: Json = False) -> int:
    """Check a configuration without starting it.

    The files that it names are read as well.
    """
    from moretta.cli import check as implementation

    return implementation.run(_config_path(config), _overrides(setting), as_json=json)


@app.command()
@_verb
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    import json

    from moretta.cli import output
    from moretta.config import json_schema

    output.say(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
@_verb
def forward(
    specification: Annotated[
        list[str],
        typer.Option("-L", metavar="[BIND:]PORT:HOST:PORT/udp", help="Local port and target, as in ssh; may repeat."),
    ],
    gateway: GatewayArgument = None,
    ca: Authorities = None,
    pin: Pin = None,
    server_name: ServerName = None,
    timeout: Timeout = 10.0,
    json: Json = False,
) -> int:
    """Carry local UDP ports through tunnels.

    Each peer of a port gets a tunnel of its own.
    """
    from moretta.cli import net

    return net.forward(net.Through(gateway, "URL", ca, pin, server_name, timeout), specification, as_json=json)


@app.command()
@_verb
def nc(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Target name or address, resolved at the gateway.")],
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="Target port.")],
    udp: Annotated[bool, typer.Option("-u", "--udp", help="Carry UDP; required, there is no TCP yet.")] = False,
    wait: Annotated[
        float, typer.Option("-w", "--wait", metavar="SECONDS", min=0, help="After the end of stdin, wait this long.")
    ] = 1.0,
    gateway: GatewayOption = None,
    ca: Authorities = None,
    pin: Pin = None,
    server_name: ServerName = None,
    timeout: Timeout = 10.0,
) -> int:
    """Carry stdin and stdout through a UDP tunnel.

    Each read is one datagram.
    """
    if not udp:
        msg = "only UDP is carried at present: add -u"
        raise typer.BadParameter(msg, param_hint="-u")
    import warnings

    from moretta.cli import net
    from moretta.errors import NarrowPathWarning

    # The verb says how much fits.
    warnings.simplefilter("ignore", NarrowPathWarning)
    through = net.Through(gateway, "--gateway URL", ca, pin, server_name, timeout)
    return net.netcat(through, host, port, wait_seconds=wait)


@app.command()
@_verb
def ping(
    gateway: GatewayArgument = None,
    count: Annotated[
        int, typer.Option("-n", "--count", metavar="N", min=1, max=1000, help="How many round trips.")
    ] = 4,
    ca: Authorities = None,
    pin: Pin = None,
    server_name: ServerName = None,
    timeout: Timeout = 10.0,
    json: Json = False,
) -> int:
    """Measure the way to a gateway."""
    from moretta.cli import net

    return net.ping(net.Through(gateway, "URL", ca, pin, server_name, timeout), count, as_json=json)


@app.command()
@_verb
def version(json: Json = False) -> None:
    """Print versions and what is supported."""
    import platform

    from moretta import engine
    from moretta.cli import output

    if json:
        output.document(
            {
                "moretta": engine.version(),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "protocols": ["connect-udp"],
                "http": ["h3"],
            }
        )
    else:
        output.say(f"moretta {engine.version()} (Python {platform.python_version()}): CONNECT-UDP over HTTP/3")
