"""Policy rules as people write them.

Nothing is decided here: the engine compiles the rules, and `moretta.engine.explain` asks the matcher of the gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

from moretta.address import HIGHEST_PORT

if TYPE_CHECKING:
    from pydantic.config import JsonDict

#: ``"*"``, or port numbers and ranges such as ``"8000-8999"``.
Ports = Literal["*"] | tuple[int | str, ...]

_RELOAD: JsonDict = {"x-reload": "applies at once after a reload, also to open tunnels"}


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _read_port(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        msg = f'{value!r} is no port: expected a number, or a range as a string such as "8000-8999"'
        raise ValueError(msg)
    low, dash, high = str(value).partition("-")
    ends = (low, high) if dash else (low,)
    if not all(end.isascii() and end.isdigit() and 1 <= int(end) <= HIGHEST_PORT for end in ends):
        msg = f'{value!r} is no port from 1 to 65535 and no range such as "8000-8999"'
        raise ValueError(msg)
    if dash and int(low) > int(high):
        msg = f'the range {value!r} runs backwards: write "{high}-{low}"'
        raise ValueError(msg)
    return value


def _read_ports(value: object) -> Ports:
    if value == "*":
        return "*"
    if not isinstance(value, list | tuple):
        msg = f'expected a list of ports and ranges, or "*" for all: write ports = [{value!r}]'
        raise ValueError(msg)
    if not value:
        msg = 'an empty list matches nothing: name the ports, or write "*" for all'
        raise ValueError(msg)
    return tuple(_read_port(port) for port in value)


def _write_ports(ports: Ports) -> Any:
    return ports if ports == "*" else list(ports)


class Rule(BaseModel):
    """One rule. Any matching deny wins, then any matching allow; nothing matched means deny."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: str = Field(
        description="Name of the rule in records and explanations; unique.",
        min_length=1,
        max_length=128,
        json_schema_extra=_RELOAD,
    )
    action: Literal["allow", "deny"] = Field(
        description="What a match means.",
        json_schema_extra=_RELOAD,
    )
    protocol: Literal["udp"] = Field(
        description="Protocol towards the target.",
        json_schema_extra=_RELOAD,
    )
    destination: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        description='Addresses, prefixes, names, "*.suffix"es, and "*" for every public target. A name admits public '
        "answers only; an answer in a private prefix needs a rule that names the prefix.",
        min_length=1,
        json_schema_extra=_RELOAD,
    )
    ports: Annotated[
        Ports,
        PlainValidator(_read_ports),
        PlainSerializer(_write_ports),
        WithJsonSchema(
            {
                "anyOf": [
                    {"const": "*"},
                    {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "anyOf": [
                                {"type": "integer", "minimum": 1, "maximum": HIGHEST_PORT},
                                {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"},
                            ]
                        },
                    },
                ]
            }
        ),
    ] = Field(
        description='Ports and ranges such as "8000-8999", or "*" for all.',
        json_schema_extra=_RELOAD,
    )

    def document(self) -> dict[str, Any]:
        """Return the rule as the engine reads it."""
        return self.model_dump(mode="json")
