"""When a process is replaced."""

import pytest

from pygeoapi_prefect.worker.pool import why_replace


@pytest.mark.parametrize(
    ("jobs_done", "resident_mib", "expected"),
    [
        (1, 100.0, None),
        (9, 512.0, None),
        (10, 100.0, "it has run 10 jobs"),
        (1, 513.0, "it holds 513 MiB, more than 512 MiB"),
    ],
)
def test_a_process_is_replaced_after_its_jobs_or_above_its_memory(
    jobs_done: int, resident_mib: float, expected: str | None
) -> None:
    why = why_replace(
        jobs_done=jobs_done, resident_mib=resident_mib, jobs_per_process=10, memory_limit_mib=512
    )

    assert why == expected
