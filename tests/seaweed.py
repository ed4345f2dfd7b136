"""The S3-compatible server of the tests: the product's, with known keys and a reader beside."""

import shutil
import tempfile
from pathlib import Path

from cluster.seaweed import READER, Identity, Seaweed, seaweed_ports


class SeaweedServer(Seaweed):
    """One server with one bucket; `stop` is a crash, `start` brings the same data back."""

    def __init__(self) -> None:
        self.access_key = "TESTACCESSKEY"
        self.secret_key = "testsecret-do-not-show"
        self.reader_key = "READONLYKEY"
        identities = [
            Identity("tests", self.access_key, self.secret_key),
            Identity("reader", self.reader_key, self.secret_key, READER),
        ]
        super().__init__(
            Path(tempfile.mkdtemp(prefix="seaweed-")),
            identities,
            bucket="langalign-test",
            ports=seaweed_ports(),
        )

    def close(self) -> None:
        """Stop and delete the data."""
        self.stop()
        shutil.rmtree(self.folder)
