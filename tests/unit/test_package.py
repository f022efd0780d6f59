"""What importing the package costs, and what it offers."""

import subprocess
import sys

import pytest

import pygeoapi_prefect

HEAVY = ("prefect", "pydantic", "rich", "yaml", "httpx", "fsspec", "pygeoapi")


@pytest.mark.parametrize("module", ["pygeoapi_prefect", "pygeoapi_prefect.cli"])
def test_what_pygeoapi_loads_on_every_start_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = result.stdout.split()
    assert module in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_every_public_name_exists() -> None:
    for name in pygeoapi_prefect.__all__:
        assert getattr(pygeoapi_prefect, name) is not None


def test_public_names_are_the_same_objects_as_in_their_modules() -> None:
    from pygeoapi_prefect.manager import PrefectManager
    from pygeoapi_prefect.process.base import BasePrefectProcessor

    assert pygeoapi_prefect.PrefectManager is PrefectManager
    assert pygeoapi_prefect.BasePrefectProcessor is BasePrefectProcessor


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = pygeoapi_prefect.Nonsense
    assert "Nonsense" not in dir(pygeoapi_prefect)
