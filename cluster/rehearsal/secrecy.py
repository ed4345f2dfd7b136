"""Whether what a run leaves behind holds a secret."""

from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.rehearsal.nodes import TOKEN_FILE, LocalCluster
from cluster.seaweed import Seaweed

__all__ = ["places_of_secrets"]

PARQUET = b"PAR1"  # how each such file begins


def places_of_secrets(cluster: LocalCluster, store: Seaweed) -> tuple[int, list[str]]:
    """How many objects and files were read, and which hold a key of the store or the token.

    Objects are all of the bucket, files those of Ray's session. Pickles and the rest are searched
    as the bytes they are, Parquet as its columns: what another format compresses is not seen.
    """
    secrets = [store.owner.secret_key, store.owner.access_key, cluster.token]
    wanted = [secret.encode() for secret in secrets]
    searched, found = 0, []
    for place, data in (*_objects(store), *_files(cluster.folder)):
        searched += 1
        plain = _columns(data) if data.startswith(PARQUET) else data
        if any(secret in plain for secret in wanted):
            found.append(place)
    return searched, found


def _objects(store: Seaweed) -> Iterator[tuple[str, bytes]]:
    client = store.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket):
        for entry in page.get("Contents", []):
            body = client.get_object(Bucket=store.bucket, Key=entry["Key"])["Body"].read()
            yield f"s3://{store.bucket}/{entry['Key']}", body


def _columns(data: bytes) -> bytes:
    """Rows and metadata of a Parquet file without its compression; as it is where it is damaged."""
    try:
        table = pq.read_table(BytesIO(data))
    except pa.ArrowException:
        return data
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    plain: bytes = sink.getvalue().to_pybytes()
    return plain


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != TOKEN_FILE:
            with suppress(FileNotFoundError):  # a log that was rotated away, under another name now
                yield str(path.relative_to(folder)), path.read_bytes()
