"""In which order test files run, and which of them run in one process of pytest-xdist."""

from typing import override

import pytest
from xdist.scheduler import LoadFileScheduling

_SHARING = {
    # a site with its deployments, its worker and some thirty jobs
    "site": (
        *("test_conventions", "test_deployed", "test_deployed_elsewhere", "test_discovery"),
        *("test_dismissal", "test_existing_deployments", "test_features", "test_opaque_inputs"),
        *("test_ordinary_processors", "test_outages"),
    ),
    # a web server for each application, and a worker
    "stack": (
        *("test_conformance", "test_following", "test_http_api", "test_lakes", "test_openapi"),
        "test_pages",
    ),
}
_FOLDERS = {"site": "tests/integration", "stack": "tests/acceptance"}
_TOGETHER = {
    f"{_FOLDERS[fixture]}/{name}.py": fixture
    for fixture, names in _SHARING.items()
    for name in names
}
"""What files share that takes long to start and is started once in each process."""

# longest first, or one process would be left alone with what is long at the end
_ORDER = (
    *("stack", "site"),
    "tests/integration/scale_out",
    *("tests/integration/worker/test_dying", "tests/integration/worker/test_cut_off"),
    "tests/containers",
    "tests/integration/worker/test_limits",
    "tests/acceptance/test_docs",
    "tests/acceptance/test_up",
    *("tests/integration", "tests/acceptance", "tests/contract", "tests/unit"),
)


def unit_of(node_id: str) -> str:
    """What a test belongs to that is run by one process: usually its file."""
    file = node_id.partition("::")[0]
    return _TOGETHER.get(file, file)


def rank(item: pytest.Item) -> int:
    """The smaller it is, the earlier is the test run."""
    unit = unit_of(item.nodeid)
    return next(
        (number for number, prefix in enumerate(_ORDER) if unit.startswith(prefix)), len(_ORDER)
    )


class UnitScheduling(LoadFileScheduling):
    """Hands out files in the order in which they come, and files of one unit together."""

    @override
    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def check_unit(item: pytest.Item) -> None:
    """Fail a test whose file shares something, and is not named above."""
    file = item.nodeid.partition("::")[0]
    for fixture, folder in _FOLDERS.items():
        is_shared = file.rpartition("/")[0] == folder and fixture in item.fixturenames  # type: ignore[attr-defined]
        if is_shared and _TOGETHER.get(file) != fixture:
            pytest.fail(f"{file} shares {fixture!r}: name it in tests/scheduling.py")
