"""Write docs/reference from what the program itself knows; with --check only compare.

configuration.md comes from the configuration's models, errors.md from the engine's table of reasons, command-line.md
from the help of every verb. tests/unit/test_reference.py fails when a page is stale.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = Path(__file__).resolve().parent.parent / "docs/reference"
NOTICE = "<!-- Written by `make reference`; do not edit. -->"


def errors() -> str:
    """Refusals, ends and drops, one table each."""
    from moretta import engine

    table = engine.error_table()
    lines = [
        "# Reasons",
        "",
        NOTICE,
        "",
        "Why a tunnel was refused, why one ended, why a datagram went no further.",
        "The codes are stable: they are the words in records, the labels of counters and the `code` or `reason` of",
        "Python's exceptions.",
        "",
        "## Refused",
        "",
        "| code | status | Proxy-Status error | HTTP/3 code | try again | Python | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f'| <a id="{row["docs"]}"></a>`{row["code"]}` | {row["status"] or "none"} | {code(row["proxy_status"])} '
        f"| {row['h3_code']:#x} | {row['retry'].replace('_', ' ')} | `{row['python']}` | {row['sentence']} |"
        for row in table["refusals"]
    ]
    for title, key in (("Ended", "ends"), ("Dropped", "drops")):
        columns = [name for name in table[key][0] if name not in {"code", "sentence", "docs"}]
        lines += ["", f"## {title}", "", f"| code | {' | '.join(map(words, columns))} | meaning |"]
        lines.append("|---" * (len(columns) + 2) + "|")
        for row in table[key]:
            cells = " | ".join(cell(name, row[name]) for name in columns)
            lines.append(f'| <a id="{row["docs"]}"></a>`{row["code"]}` | {cells} | {row["sentence"]} |')
    return "\n".join(lines) + "\n"


def code(text: str | None) -> str:
    return f"`{text}`" if text else "none"


def words(name: str) -> str:
    return "HTTP/3 code" if name == "h3_code" else name.replace("_", " ")


def cell(name: str, value: Any) -> str:
    if name == "h3_code" and value is not None:
        return f"{value:#x}"
    if isinstance(value, dict):
        return ", ".join(f"{words(key)} {item}" for key, item in value.items())
    return "none" if value is None else str(value).replace("_", " ")


def configuration() -> str:
    """Every setting with meaning, default, bounds and what a reload does to it."""
    from moretta.config import Config

    schema = Config.model_json_schema()
    lines = [
        "# Configuration",
        "",
        NOTICE,
        "",
        "One TOML file. An unknown key is an error. `moretta check` reads a file and starts nothing; `moretta schema`",
        "prints the JSON Schema that editors understand. Every key can also come from the environment:",
        "`MORETTA_LIMITS__MAX_TUNNELS=100`.",
    ]
    for heading, properties, required in sections(schema, schema, ""):
        lines += ["", f"## {heading}", "", "| key | value | default | meaning |", "|---|---|---|---|"]
        for name, setting in properties.items():
            default = "**required**" if name in required else written(setting.get("default"))
            meaning = setting.get("description", "")
            if reload := setting.get("x-reload"):
                meaning += f" *{reload[0].upper()}{reload[1:]}.*"
            lines.append(f"| `{name}` | {kind(setting, schema)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def sections(
    model: dict[str, Any], schema: dict[str, Any], path: str
) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Heading, settings and required keys of every table of the file, depth first."""
    plain: dict[str, Any] = {}
    nested: list[tuple[str, dict[str, Any]]] = []
    for name, setting in model.get("properties", {}).items():
        inner = resolve(setting, schema)
        where = f"{path}.{name}" if path else name
        if inner.get("type") == "object" and "properties" in inner:
            nested.append((f"[{where}]", inner))
        elif inner.get("type") == "object" and "properties" in resolve(values(inner), schema):
            nested.append((f"[{where}.NAME]", resolve(values(inner), schema)))
        elif "properties" in resolve(inner.get("items", {}), schema):
            nested.append((f"[[{where}]]", resolve(inner["items"], schema)))
        else:
            plain[name] = setting
    if plain:
        yield (path or "Top of the file"), plain, model.get("required", [])
    for heading, inner in nested:
        for found, settings, required in sections(inner, schema, heading.strip("[]")):
            yield (f"`{heading}`" if found == heading.strip("[]") else found), settings, required


def values(inner: dict[str, Any]) -> dict[str, Any]:
    """The schema of a mapping's values."""
    additional = inner.get("additionalProperties")
    if isinstance(additional, dict):
        return additional
    patterns: dict[str, Any] = inner.get("patternProperties", {})
    return next(iter(patterns.values()), {})


def resolve(setting: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in setting:
        found: dict[str, Any] = schema["$defs"][setting["$ref"].rsplit("/", 1)[1]]
        return found
    return setting


def kind(setting: dict[str, Any], schema: dict[str, Any]) -> str:
    """The type of a setting with its bounds, in words."""
    setting = resolve(setting, schema)
    if "anyOf" in setting:
        return " or ".join(
            kind({**item, "x-unit": setting.get("x-unit")}, schema)
            for item in setting["anyOf"]
            if item.get("type") != "null"
        )
    if "enum" in setting:
        return ", ".join(f"`{json.dumps(value)}`" for value in setting["enum"])
    if "const" in setting:
        return f"`{json.dumps(setting['const'])}`"
    if setting.get("type") == "array":
        return f"list of {kind(setting.get('items', {}), schema)}"
    if setting.get("type") == "object":
        return f"table of {kind(values(setting), schema)}"
    text = {"integer": "whole number", "number": "number", "string": "string", "boolean": "true or false"}.get(
        setting.get("type", ""), "value"
    )
    if unit := setting.get("x-unit"):
        text += f" of {unit}"
    least, most = setting.get("minimum"), setting.get("maximum")
    if setting.get("exclusiveMinimum") is not None:
        text += f" above {setting['exclusiveMinimum']:,}"
    if least is not None and most is not None:
        text += f" from {least:,} to {most:,}"
    elif least is not None:
        text += f", at least {least:,}"
    elif most is not None:
        text += f", at most {most:,}"
    return text


def written(default: Any) -> str:
    return "none" if default is None else f"`{json.dumps(default)}`"


def command_line() -> str:
    """The help of every verb."""
    # Width and colour must not depend on who runs this.
    os.environ.update({"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"})
    os.environ.pop("FORCE_COLOR", None)
    from moretta.cli.app import app

    whole = help_of()
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    lines = [
        "# Command line",
        "",
        NOTICE,
        "",
        "Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 denied, 5 unreachable, 6 privilege missing.",
        "",
        *whole,
    ]
    for verb in verbs:
        lines += ["", f"## {verb}", "", *help_of(verb)]
    return "\n".join(lines) + "\n"


def help_of(*verb: str) -> list[str]:
    from moretta.cli import main as moretta

    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        moretta([*verb, "--help"])
    return ["```", *(line.rstrip() for line in output.getvalue().strip("\n").splitlines()), "```"]


GENERATORS = {"errors.md": errors, "configuration.md": configuration, "command-line.md": command_line}


def stale() -> list[str]:
    """Pages that differ from what the program says now."""
    return [
        name
        for name, generate in GENERATORS.items()
        if not (PAGES / name).exists() or (PAGES / name).read_text(encoding="utf-8") != generate()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        old = stale()
        print(f"stale, run `make reference`: {', '.join(old)}" if old else "docs/reference is current")
        return int(bool(old))
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, generate in GENERATORS.items():
        (PAGES / name).write_text(generate(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
