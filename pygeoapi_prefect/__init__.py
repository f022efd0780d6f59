"""OGC API - Processes jobs as Prefect flow runs: the public names.

Names are loaded when they are first asked for. pygeoapi imports this package on every
start, for its command group alone, and Prefect takes seconds to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygeoapi_prefect.manager import PrefectManager
    from pygeoapi_prefect.process.base import BasePrefectProcessor
    from pygeoapi_prefect.progress import report_progress
    from pygeoapi_prefect.schemas import (
        ExecuteRequest,
        JobStatus,
        JobStatusInfoInternal,
        OutputExecutionResultInternal,
        ProcessDescription,
        ProcessInput,
        ProcessIOSchema,
        ProcessIOType,
        ProcessOutput,
    )

    __version__: str

__all__ = [
    "BasePrefectProcessor",
    "ExecuteRequest",
    "JobStatus",
    "JobStatusInfoInternal",
    "OutputExecutionResultInternal",
    "PrefectManager",
    "ProcessDescription",
    "ProcessIOSchema",
    "ProcessIOType",
    "ProcessInput",
    "ProcessOutput",
    "__version__",
    "report_progress",
]

_MODULES = {
    "BasePrefectProcessor": "pygeoapi_prefect.process.base",
    "PrefectManager": "pygeoapi_prefect.manager",
    "report_progress": "pygeoapi_prefect.progress",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("pygeoapi-prefect")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "pygeoapi_prefect.schemas")), name)


def __dir__() -> list[str]:
    return __all__
