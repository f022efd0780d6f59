"""Job variables, held against what a work pool offers."""

from pathlib import Path
from typing import Any

import pytest

from pygeoapi_prefect.deployments.work_pools import WorkPool, missing_work_pool, new_work_pool
from pygeoapi_prefect.errors import ConfigurationError

PROCESS = {"PYGEOAPI_PREFECT_PROCESS": "{}"}
OURS = new_work_pool("lakes")


def pool(properties: dict[str, Any], **configuration: Any) -> WorkPool:
    template = {
        "job_configuration": {"env": "{{ env }}", **configuration},
        "variables": {"type": "object", "properties": {"env": {"type": "object"}, **properties}},
    }
    return WorkPool(name="lakes", type="docker", template=template, default_queue_id=None)


def test_jobs_run_where_the_modules_are_if_the_pool_lets_them() -> None:
    here = Path("/srv/site")
    assert OURS.job_variables({}, PROCESS, here) == {"working_dir": "/srv/site", "env": PROCESS}
    assert pool({}).job_variables({}, PROCESS, here) == {"env": PROCESS}
    assert OURS.job_variables({}, PROCESS, None) == {"env": PROCESS}


def test_the_configuration_wins_but_for_the_process() -> None:
    configured = {
        "working_dir": "/opt/code",
        "env": {"OMP_NUM_THREADS": "1", "PYGEOAPI_PREFECT_PROCESS": "another"},
    }
    assert OURS.job_variables(configured, PROCESS, Path("/srv")) == {
        "working_dir": "/opt/code",
        "env": {"OMP_NUM_THREADS": "1", **PROCESS},
    }


def test_null_takes_a_variable_out() -> None:
    configured = {"working_dir": None, "env": None}
    assert OURS.job_variables(configured, PROCESS, Path("/srv")) == {"env": PROCESS}


def test_a_variable_may_be_known_to_the_template_alone() -> None:
    lenient = pool({}, container={"image": "{{ image }}", "tries": [1, "{{ image }}"]})
    assert lenient.job_variables({"image": "a"}, PROCESS, None)["image"] == "a"


@pytest.mark.parametrize(
    ("offering", "configured", "reason"),
    [
        (OURS, {"image": "x"}, "job_variables.image: work pool lakes, of the type pygeoapi, has"),
        (OURS, {"env": "A=1"}, "job_variables.env must be a mapping"),
        (OURS, {"env": {"A": 1}}, "job_variables.env.A: 1 is not"),
        (OURS, {"stream_output": "perhaps"}, "job_variables.stream_output: 'perhaps' is not"),
        (
            pool({"limits": {"type": "object", "properties": {"cpu": {"type": "number"}}}}),
            {"limits": {"cpu": "many"}},
            "job_variables.limits.cpu: 'many' is not",
        ),
    ],
)
def test_what_the_pool_does_not_offer_is_refused(
    offering: WorkPool, configured: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        offering.job_variables(configured, PROCESS, None)


def test_a_pool_without_environment_cannot_run_processes() -> None:
    bare = WorkPool(
        name="bare",
        type="docker",
        template={"job_configuration": {"image": "{{ image }}"}, "variables": {}},
        default_queue_id=None,
    )
    with pytest.raises(ConfigurationError, match="work pool bare has no `env`"):
        bare.job_variables({}, PROCESS, None)


def test_a_pool_that_is_missing_can_be_made_by_what_is_said() -> None:
    assert "prefect work-pool create gpu --type" in missing_work_pool("gpu").detail
