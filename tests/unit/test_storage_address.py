"""Addresses of storages."""

import pytest

from pygeoapi_prefect.storage_address import check_address, is_block, storage_name


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("local-file-system/results", True),
        ("s3-bucket/x", True),
        ("s3://bucket/x", False),
        ("file:///x/y", False),
        ("memory://x", False),
        ("/x", False),
        ("/x/y", False),
        ("results", False),
        ("a/b/c", False),
    ],
)
def test_a_block_is_told_from_a_url(address: str, expected: bool) -> None:
    assert is_block(address) is expected


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("remote-file-system/results", "remote-file-system/results"),
        ("s3://bucket/prefix/deeper", "s3://bucket"),
        ("abfs://container@account.example/x", "abfs://account.example"),
        ("sftp://user@host:22/x", "sftp://host:22"),
        ("s3://bucket/a@b", "s3://bucket"),
        ("file:///srv/results", "on disk"),
        ("/srv/results", "on disk"),
    ],
)
def test_a_storage_is_called_by_what_clients_may_know(address: str, name: str) -> None:
    assert storage_name(address) == name
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:secret@bucket/x",
        "s3://key:se/secret@bucket/x",
        "s3://key:/secret/@bucket/x",
        "simplecache::s3://key:secret@bucket/x",
        "sftp://user:secret@host/x",
        "s3://bucket/x?key=a&secret=b",
        "abfs://container?sas=secret",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_quoted(address: str) -> None:
    with pytest.raises(ValueError, match="no password and no query") as error:
        check_address(address)

    assert "secret" not in str(error.value)
    # which the block of an operator may have all the same
    assert "secret" not in storage_name(address)
