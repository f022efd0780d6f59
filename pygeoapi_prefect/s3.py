"""How S3 is used through fsspec: patience with it, and blocks of prefect-aws."""

from collections.abc import Mapping
from typing import Any, Final

from prefect.blocks.core import Block

PROTOCOLS: Final = frozenset({"s3", "s3a"})
BUCKET_BLOCK: Final = "s3-bucket"
"""Slug of the block type of prefect-aws."""

PATIENCE: Final[Mapping[str, Any]] = {
    # four attempts with pauses of 0.5, 1 and 2 s on average: a storage that is away is known
    # to be so after some seconds; with the defaults of s3fs it may take two minutes
    "retries": {"mode": "standard", "total_max_attempts": 4},
    "connect_timeout": 3,
    "read_timeout": 10,
    # one for each thread of the web server
    "max_pool_connections": 32,
}
"""Settings of botocore, where the operator's block has none of its own."""


def filesystem_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for the filesystem of s3fs, with our patience where they have none.

    Args:
        options: Those of the operator.
    """
    return {
        # what another process stores would not be seen
        "use_listings_cache": False,
        **options,
        "config_kwargs": {**PATIENCE, **(options.get("config_kwargs") or {})},
    }


def signing_options(media_type: str) -> dict[str, Any]:
    """Return options of a signed address, from which a file is sent as what it is."""
    return {"ResponseContentType": media_type}


def url_of_bucket(block: Block) -> str:
    """Return the URL of the folder in which a block of the type `BUCKET_BLOCK` stores."""
    bucket: Any = block
    folder = str(bucket.bucket_folder).strip("/")
    return f"s3://{bucket.bucket_name}/{folder}".rstrip("/")


def options_of_bucket(block: Block) -> dict[str, Any]:
    """Return options for the filesystem of s3fs that say what such a block says."""
    credentials: Any = block.credentials  # type: ignore[attr-defined]  # prefect-aws is optional
    client: dict[str, Any] = credentials.aws_client_parameters.get_params_override()
    client.pop("config", None)
    if credentials.region_name is not None:
        client["region_name"] = credentials.region_name
    return {
        **_login(credentials),
        "client_kwargs": client,
        "config_kwargs": dict(credentials.aws_client_parameters.config or {}),
    }


def _login(credentials: Any) -> dict[str, Any]:
    if getattr(credentials, "assume_role_arn", None):
        assumed = credentials.get_boto3_session().get_credentials().get_frozen_credentials()
        return {
            "key": assumed.access_key,
            "secret": assumed.secret_key,
            "token": assumed.token,
            # they are others each time, and each filesystem that is cached stays for ever
            "skip_instance_cache": True,
        }
    if hasattr(credentials, "minio_root_user"):
        secret = credentials.minio_root_password.get_secret_value()
        return {"key": credentials.minio_root_user, "secret": secret}
    secret = credentials.aws_secret_access_key
    login = {
        "key": credentials.aws_access_key_id,
        "secret": secret and secret.get_secret_value(),
        "token": credentials.aws_session_token,
        "profile": credentials.profile_name,
    }
    return {name: value for name, value in login.items() if value is not None}
