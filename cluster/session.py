"""Connect to Ray, carry what workers need, and check every node before work starts.

Credentials are never put into a runtime environment: Ray's runtime-env agent logs it in clear.
On a local cluster workers inherit the driver's environment; on a real one each node has its own
(an instance role, a container secret), and `check_nodes` says which node lacks it.
"""

import logging
import os
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.display import Display
from langalign.authtoken import protect_token
from langalign.errors import ClusterError, ConfigError, LangAlignError, StorageError
from langalign.storage import STORAGE_VARIABLE, Storage

__all__ = [
    "carry_no_keys",
    "check_nodes",
    "checked_session",
    "crash_reason",
    "own_interrupts",
    "probe_storage",
    "session",
    "without_ray_wrapping",
]

# Endpoints and regions are not secrets, and every node needs the same ones.
CARRIED_VARIABLES = (
    STORAGE_VARIABLE,
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "HF_HUB_OFFLINE",
)
# Ray Train polls its workers this often; its default of 2 s is most of a short step.
TRAIN_VARIABLES = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25"}
VERBOSE_VARIABLE = "LANGALIGN_VERBOSE"
# A process of a busy node takes a while to start, and storage out of reach gives up after less.
ANSWER_LIMIT_S = 120.0
# Ray knows some seconds after the autoscaler has let a node go that it has.
GONE_LIMIT_S = 15.0


@contextmanager
def session(address: str | None = None) -> Iterator[None]:
    """A connection to the Ray cluster at `address` (or RAY_ADDRESS), else to a new local one.

    Inside another session it is that session's.

    Raises:
        ConfigError: there is no cluster at the address, or it refuses the token.
    """
    if ray.is_initialized():
        yield
        return
    is_verbose = bool(os.environ.get(VERBOSE_VARIABLE))
    target = address or os.environ.get("RAY_ADDRESS")
    carried = {name: os.environ[name] for name in CARRIED_VARIABLES if name in os.environ}
    os.environ.update({k: v for k, v in TRAIN_VARIABLES.items() if k not in os.environ})
    _quieten(is_verbose)
    options = {} if target else {"include_dashboard": False}
    try:
        with nullcontext() if is_verbose else _silent_stderr():
            ray.init(
                address=target,
                # Without one, workers start Python once instead of twice.
                runtime_env={"env_vars": carried} if carried else None,
                log_to_driver=is_verbose,
                logging_level=logging.INFO if is_verbose else logging.ERROR,
                **options,
            )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"no Ray cluster at {target or 'this machine'}: {reason}; unset RAY_ADDRESS and "
            f"cluster.address for a local one, or set RAY_AUTH_MODE=token if it asks for a token"
        ) from error
    protect_token()
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def checked_session(address: str | None, storage: Storage, display: Display) -> Iterator[None]:
    """A session of which every node reaches the storage; shown as a step, unless it is nested.

    Raises:
        ClusterError: a node does not answer.
        ConfigError: there is no cluster at the address, or it refuses the token.
        StorageError: a node does not reach the storage.
    """
    if ray.is_initialized():
        yield
        return
    with ExitStack() as stack:
        with display.step("ray") as line:
            stack.enter_context(session(address))
            nodes = check_nodes(storage)
            line.say(f"{nodes} node{'s' if nodes > 1 else ''} reach the storage")
        yield


def check_nodes(storage: Storage) -> int:
    """Have every live node use the storage and see the driver's file there; returns the count.

    Nodes that leave the cluster meanwhile, as idle ones do where it scales, are not counted.

    Raises:
        ClusterError: a node does not answer.
        StorageError: a node cannot, naming it and the cause.
    """
    probe = ray.remote(num_cpus=0, max_retries=2)(probe_storage)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    key = f".langalign-driver-{uuid.uuid4().hex}"
    storage.write_bytes(key, key.encode())
    pending = []
    try:
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            pending.append(probe.options(scheduling_strategy=here).remote(storage, key))
        left = [_is_well(*each) for each in zip(nodes, pending, strict=True)]
    finally:
        storage.delete(key)
    return sum(left)


def _is_well(node: Mapping[str, Any], reference: Any) -> bool:
    """Whether a node is there and reaches the storage; False if it has left."""
    name = node["NodeManagerAddress"]
    try:
        problem = _answer(name, reference)
    except ClusterError:
        if _has_left(node["NodeID"]):
            return False
        raise
    if problem:
        raise StorageError(f"on node {name}: {problem}")
    return True


def _has_left(node_id: str) -> bool:
    deadline = time.monotonic() + GONE_LIMIT_S
    while any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _answer(name: str, reference: Any) -> str:
    """What a node says of the storage."""
    try:
        problem: str = ray.get(reference, timeout=ANSWER_LIMIT_S)
        return problem
    except ray.exceptions.RayError as error:
        is_late = isinstance(error, ray.exceptions.GetTimeoutError)
        last = " ".join(str(error).split())[-200:]
        reason = f"no answer in {ANSWER_LIMIT_S:.0f} s" if is_late else last
        raise ClusterError(
            f"node {name} did not look at the storage ({reason}): `python -m cluster doctor` says "
            "what is wrong there"
        ) from error


def carry_no_keys() -> None:
    """Tune would put AWS keys into trials' runtime environments, which Ray's agent logs in clear.

    Each node has its own.
    """
    # Here, as only a sweep needs Ray Tune.
    from ray.tune.execution import class_cache

    carried = class_cache.ENV_VARS_TO_PROPAGATE
    carried.difference_update({name for name in carried if name.startswith("AWS_")})


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Give Ctrl-C back its meaning: the handler of Ray Tune outlives its search."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def without_ray_wrapping() -> Iterator[None]:
    """Raise a LangAlignError of a task or actor as itself, not inside Ray's wrapper."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause: BaseException | None = error
        while cause is not None:
            inner = getattr(cause, "cause", None) or cause.__cause__
            if isinstance(inner, LangAlignError):
                # Ray Data appends lines about its retries to the message, which is one line.
                inner.args = (str(inner).partition("\n")[0],)
                raise inner from None
            cause = inner
        raise


def crash_reason(error: Exception) -> str:
    """What ended a task, in a line: Ray's error by name and the last line that it gives."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"


def probe_storage(storage: Storage, key: str) -> str:
    """Use the storage from this node and look for the driver's file; the problem, if any."""
    try:
        storage.check()
        if not storage.exists(key):
            return (
                f"storage {storage.root} is not the driver's: a folder of one machine cannot be "
                f"shared; use s3://bucket/prefix or a folder that all nodes mount"
            )
    except StorageError as error:
        return str(error)
    return ""


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep what Ray's core prints while it starts off the terminal; errors come as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quieten(is_verbose: bool) -> None:
    if is_verbose:
        return
    # The core worker of the driver writes its own log lines to the terminal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray Data prints the traceback of an error in a stage, and then raises it as well.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\..*")
