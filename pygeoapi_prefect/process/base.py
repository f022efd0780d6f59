"""The class that binds a Prefect flow to a process description."""

import copy
from typing import Any, ClassVar

from prefect import Flow
from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect.schemas import ProcessDescription


class BasePrefectProcessor(BaseProcessor):
    """A process whose work is a Prefect flow.

    Derived classes set two attributes, and nothing else::

        class Hello(BasePrefectProcessor):
            process_flow = hello  # a function decorated with @flow(persist_result=True)
            process_description = ProcessDescription(id="hello", version="1.0.0", ...)

    Attributes:
        process_flow: The flow. It is handed only the parameters that it declares, out of
            `job_id`, `result_storage_block`, `process_description`, `execution_request`,
            `processor_id`, `pygeoapi_job_id`, `inputs` and `outputs`.
        process_description: Class attribute or property. Its id equals the key of the
            process in the configuration.
    """

    process_flow: ClassVar[Flow[..., Any]]
    process_description: ProcessDescription

    def __init__(self, processor_def: dict[str, Any]) -> None:
        # None: what pygeoapi shows is the description, until somebody sets another
        super().__init__(processor_def, None)  # type: ignore[arg-type]

    @property
    def metadata(self) -> dict[str, Any]:
        """The description as pygeoapi reads it: a fresh dict, so that nobody changes ours."""
        if self._metadata is not None:
            return copy.deepcopy(self._metadata)
        return self.process_description.model_dump(mode="json", by_alias=True, exclude_none=True)

    @metadata.setter
    def metadata(self, metadata: dict[str, Any] | None) -> None:
        self._metadata = metadata

    def execute(self, data: dict[str, Any], outputs: object = None) -> tuple[str, Any]:
        """Refuse: the work is in the flow, which only our process manager runs."""
        raise NotImplementedError(
            f"{type(self).__name__} runs as a Prefect flow: set server.manager.name to "
            "pygeoapi_prefect.manager.PrefectManager"
        )
