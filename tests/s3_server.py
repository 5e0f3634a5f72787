"""An S3 on loopback, for studies at URIs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from moto.server import ThreadedMotoServer

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
}


@dataclass(frozen=True)
class S3:
    """A server with one bucket, named `ours`."""

    endpoint: str  # host:port

    def uri(self, path: str) -> str:
        return f"s3://{path}?endpoint_override={self.endpoint}&scheme=http"


@contextmanager
def serve_s3() -> Iterator[S3]:
    from pyarrow.fs import FileSystem

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        try:
            s3 = S3("{}:{}".format(*server.get_host_and_port()))
            filesystem, _ = FileSystem.from_uri(s3.uri("ours") + "&allow_bucket_creation=true")
            filesystem.create_dir("ours")
            yield s3
        finally:
            server.stop()
