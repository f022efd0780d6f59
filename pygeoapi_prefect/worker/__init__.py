"""The Prefect worker that makes short jobs cheap; work pools of type `pygeoapi`."""

from pygeoapi_prefect.worker.settings import PygeoapiWorkerSettings
from pygeoapi_prefect.worker.worker import PygeoapiWorker

__all__ = ["PygeoapiWorker", "PygeoapiWorkerSettings"]
