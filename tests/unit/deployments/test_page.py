"""What the page on deployments shows is configuration that is understood."""

import re
from pathlib import Path

import pytest
import yaml

from pygeoapi_prefect.config import parse_process

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "deploy-processes.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_shows_configuration() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_block_is_understood(block: str) -> None:
    for process_id, resource in yaml.safe_load(block)["resources"].items():
        assert parse_process(process_id, resource).prefect.deployment
