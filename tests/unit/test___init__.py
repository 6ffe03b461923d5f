"""The package's public names."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import moretta


def test_every_public_name_exists_and_is_documented() -> None:
    assert list(moretta.__all__) == sorted(moretta.__all__)
    for name in moretta.__all__:
        assert inspect.getdoc(getattr(moretta, name)), name
    assert set(moretta.__all__) <= set(dir(moretta))


@pytest.mark.parametrize("name", [name for name in moretta.__all__ if isinstance(getattr(moretta, name), type)])
def test_every_public_method_is_documented(name: str) -> None:
    kind = getattr(moretta, name)
    for attribute, value in vars(kind).items():
        if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(value), f"{name}.{attribute}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sever'"):
        _ = moretta.Sever


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, moretta.cli.app; print([m for m in ('pydantic', 'rich', 'structlog', 'asyncio', 'cryptography') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
