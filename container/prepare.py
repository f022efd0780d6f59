"""Make what the service wants to find in object storage and on the Prefect server.

A bucket, named by ``BUCKET``, and a block for code in it. Doing it again changes nothing. All
else, credentials and the address of the storage among it, is in the environment, where
botocore looks for it.
"""

import os

from prefect.filesystems import RemoteFileSystem
from s3fs import S3FileSystem

CODE_BLOCK = "code"


def main() -> None:
    """Make bucket and block."""
    bucket = os.environ["BUCKET"]
    storage = S3FileSystem()
    if not storage.exists(bucket):
        storage.mkdir(bucket)
    RemoteFileSystem(basepath=f"s3://{bucket}/code").save(CODE_BLOCK, overwrite=True)


if __name__ == "__main__":
    main()
