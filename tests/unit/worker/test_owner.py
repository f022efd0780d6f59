"""How an owner is written, and found again."""

import pytest

from pygeoapi_prefect.worker.owner import Owner, find_owner

ME = Owner(worker="w1", machine="alpha", pid=100, started=1_000)


@pytest.mark.parametrize(
    "owner",
    [ME, Owner("a: b/c%", "höst", 1, 2), Owner("w", "h", 1, 2, job=(3, 4))],
)
def test_an_owner_is_found_again_in_what_was_written(owner: Owner) -> None:
    assert find_owner(str(owner)) == owner
    assert find_owner(f"Claimed by worker 'w' ({owner})") == owner


@pytest.mark.parametrize("text", [None, "", "12345", "my-host:12345"])
def test_what_another_kind_of_worker_wrote_names_no_owner(text: str | None) -> None:
    assert find_owner(text) is None
