"""The S3 half of storage.py: boto3 calls, which faults to retry, and what to tell the user.

Nothing here is public; use `langalign.storage.Storage`.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as S3ConnectionError,
)
from s3transfer.exceptions import RetriesExceededError  # type: ignore[import-untyped]

from langalign.errors import ObjectMissing, StorageError

CONNECT_TIMEOUT_S = 5.0
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
TRANSFER = TransferConfig(
    multipart_threshold=64 * 2**20, multipart_chunksize=16 * 2**20, max_concurrency=4
)

Result = TypeVar("Result")
Client = Any  # boto3 builds its client classes at run time, so there is no type to name


@dataclass(frozen=True)
class Fault:
    """What went wrong in words, what to do about it, and whether waiting may mend it."""

    cause: str
    remedy: str
    transient: bool = False


NO_BUCKET = Fault("no such bucket", "create the bucket or correct its name")
NO_OBJECT = Fault("no such object", "check the key")
DENIED = Fault(
    "access denied", "allow the key or role to read, write, list and delete under this prefix"
)
REFUSED_KEY = Fault(
    "the server refuses the credentials",
    "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile or role in use",
)
NO_KEY = Fault(
    "no usable credentials",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or attach a role",
)
NO_SPACE = Fault("no space left on the server", "free space or raise the quota")
WRONG_REGION = Fault("the bucket is in another region", "set AWS_DEFAULT_REGION to its region")
UNREACHABLE = Fault(
    "unreachable endpoint",
    "check the network and AWS_ENDPOINT_URL_S3, or AWS_ENDPOINT_URL",
    transient=True,
)
BAD_CERTIFICATE = Fault(
    "the endpoint's TLS certificate is not trusted",
    "set AWS_CA_BUNDLE to your CA file, or use http:// if the server has no TLS",
)
BUSY = Fault("the server answers with faults", "try again when it has recovered", transient=True)

FAULT_OF_CODE = {
    "NoSuchBucket": NO_BUCKET,
    "InvalidBucketName": NO_BUCKET,
    "NoSuchKey": NO_OBJECT,
    "NotFound": NO_OBJECT,
    "404": NO_OBJECT,
    "AccessDenied": DENIED,
    "AllAccessDisabled": DENIED,
    "Forbidden": DENIED,
    "403": DENIED,
    "InvalidAccessKeyId": REFUSED_KEY,
    "SignatureDoesNotMatch": REFUSED_KEY,
    "ExpiredToken": REFUSED_KEY,
    "InvalidToken": REFUSED_KEY,
    "RequestTimeTooSkewed": Fault("the clocks differ", "set this machine's clock"),
    "InsufficientStorage": NO_SPACE,
    "QuotaExceeded": NO_SPACE,
    "XMinioStorageFull": NO_SPACE,
    "507": NO_SPACE,
    "PermanentRedirect": WRONG_REGION,
    "AuthorizationHeaderMalformed": WRONG_REGION,
    "IllegalLocationConstraintException": WRONG_REGION,
    "301": WRONG_REGION,
    "SlowDown": BUSY,
    "RequestTimeout": BUSY,
    "Throttling": BUSY,
    "ThrottlingException": BUSY,
    "TooManyRequests": BUSY,
    "ConditionalRequestConflict": BUSY,
    "429": BUSY,
}


def fault_of(error: Exception) -> tuple[Fault, str]:
    """Classify what boto3 raised; the second value is the bare error code or class name.

    The server's own message is left out on purpose: it can quote keys and signed requests.
    """
    if isinstance(error, Boto3Error) and isinstance(error.__context__, Exception):
        return fault_of(error.__context__)  # S3UploadFailedError hides the ClientError there
    name = type(error).__name__
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in FAULT_OF_CODE:
            return FAULT_OF_CODE[code], code
        if status >= 500 and status != 501:
            return BUSY, code
        return Fault("the server refuses the request", "see its log for this code"), code
    if isinstance(error, SSLError):
        return BAD_CERTIFICATE, name
    if isinstance(
        error, S3ConnectionError | HTTPClientError | IncompleteReadError | RetriesExceededError
    ):
        return UNREACHABLE, name
    if isinstance(
        error,
        NoCredentialsError
        | PartialCredentialsError
        | CredentialRetrievalError
        | TokenRetrievalError
        | ProfileNotFound,
    ):
        return NO_KEY, name
    return Fault("the S3 client cannot work", "check the AWS_* variables and AWS config file"), name


class S3Backend:
    """Objects under `s3://bucket/prefix`; `prefix` is "" or a checked key.

    Transient faults are retried with exponential backoff and jitter until `retry_deadline_s`
    seconds have passed since the first of them; all others raise StorageError at once.
    """

    def __init__(
        self, bucket: str, prefix: str, *, retry_deadline_s: float, read_timeout_s: float
    ) -> None:
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._retry_deadline_s = retry_deadline_s
        self._read_timeout_s = read_timeout_s
        self._lock = threading.Lock()
        self._client: tuple[int, Client] | None = None

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._base}{key}"

    def exists(self, key: str) -> bool:
        try:
            self._call(key, lambda client: client.head_object(**self._address(key)))
        except ObjectMissing:
            return False
        return True

    def read(self, key: str) -> bytes:
        return self._call(
            key, lambda client: bytes(client.get_object(**self._address(key))["Body"].read())
        )

    def write(self, key: str, data: bytes) -> None:
        self._call(key, lambda client: client.put_object(**self._address(key), Body=data))

    def create(self, key: str, data: bytes) -> bool:
        """Write unless the key holds an object; False if it does."""

        def attempt(client: Client) -> bool:
            try:
                client.put_object(**self._address(key), Body=data, IfNoneMatch="*")
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code in ("PreconditionFailed", "412"):
                    return False
                if code not in ("NotImplemented", "501"):
                    raise
                # Stores without conditional writes: look, then write.
                if self.exists(key):
                    return False
                client.put_object(**self._address(key), Body=data)
            return True

        return self._call(key, attempt)

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        for page in self._pages(prefix):
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # a marker that other tools put for a folder
                    yield entry["Key"][len(self._base) :], int(entry["Size"])

    def folders(self, prefix: str) -> list[str]:
        return [
            entry["Prefix"].rstrip("/").rpartition("/")[2]
            for page in self._pages(prefix, Delimiter="/")
            for entry in page.get("CommonPrefixes", [])
        ]

    def delete(self, key: str) -> None:
        try:
            self._call(key, lambda client: client.delete_object(**self._address(key)))
        except ObjectMissing:
            return  # some servers answer 404 where AWS answers 204

    def delete_folder(self, prefix: str) -> None:
        # One request per object: the bulk call needs a checksum that not every server accepts.
        for key, _ in list(self.sizes(prefix)):
            self.delete(key)

    def send(self, path: Path, key: str) -> None:
        self._call(
            key,
            lambda client: client.upload_file(
                Filename=str(path), **self._address(key), Config=TRANSFER
            ),
        )

    def receive(self, key: str, file: BinaryIO) -> None:
        def attempt(client: Client) -> None:
            file.seek(0)
            file.truncate()
            client.download_fileobj(**self._address(key), Fileobj=file, Config=TRANSFER)

        self._call(key, attempt)

    def _address(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._base}{key}"}

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        query = {"Bucket": self._bucket, "Prefix": self._base + prefix, **options}
        if prefix:
            query["Prefix"] += "/"
        while True:
            page: dict[str, Any] = self._call(
                prefix, lambda client: client.list_objects_v2(**query)
            )
            yield page
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def _call(self, key: str, operation: Callable[[Client], Result]) -> Result:
        client = self._connect(key)
        first_fault_at: float | None = None
        delay_s = FIRST_DELAY_S
        while True:
            try:
                return operation(client)
            except (BotoCoreError, ClientError, Boto3Error, RetriesExceededError) as error:
                fault, code = fault_of(error)
            now = time.monotonic()
            first_fault_at = now if first_fault_at is None else first_fault_at
            wait_s = delay_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, not a secret)
            if not fault.transient or now + wait_s - first_fault_at > self._retry_deadline_s:
                raise self._error(key, fault, code, client)
            time.sleep(wait_s)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    def _error(self, key: str, fault: Fault, code: str, client: Client | None) -> StorageError:
        endpoint = urlsplit(client.meta.endpoint_url if client else "")
        at = f" at {endpoint.scheme}://{endpoint.netloc.rpartition('@')[2]}" if client else ""
        kind = ObjectMissing if fault is NO_OBJECT else StorageError
        return kind(f"storage {self.uri(key)}{at}: {fault.cause} ({code}): {fault.remedy}")

    def _connect(self, key: str) -> Client:
        """This process's client: sockets do not survive a fork, so the process id is kept."""
        with self._lock:
            if self._client is not None and self._client[0] == os.getpid():
                return self._client[1]
            # With a custom endpoint, botocore's default addressing style is "path".
            settings = Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=self._read_timeout_s,
                retries={"mode": "standard", "total_max_attempts": 2},
                # Newer checksums by default break many S3-compatible servers.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            try:
                client = boto3.session.Session().client("s3", config=settings)
            except (BotoCoreError, ValueError) as error:
                fault, code = fault_of(error)
                # The original message may quote an endpoint with a password in it.
                raise self._error(key, fault, code, None) from None
            self._client = (os.getpid(), client)
            return client
