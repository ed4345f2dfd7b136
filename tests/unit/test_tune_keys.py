"""A sweep's keys for S3 do not travel in the runtime environments of its trials."""

import pytest
from ray import tune
from ray.tune.execution import class_cache

from cluster.session import carry_no_keys

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class _Trainable(tune.Trainable):  # type: ignore[misc]
    """What Tune makes an actor of."""


def carried() -> set[str]:
    """Variables that Tune puts into the runtime environment of a trial."""
    actor = class_cache._ActorClassCache().get(_Trainable)
    return set(actor._default_options["runtime_env"]["env_vars"])


def test_tune_carries_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {*KEYS, "RAY_CHDIR_TO_TRIAL_DIR"})
    for name in (*KEYS, "RAY_CHDIR_TO_TRIAL_DIR"):
        monkeypatch.setenv(name, "x")
    # Whatever the set names goes into the environment.
    assert carried() >= set(KEYS)
    carry_no_keys()
    assert not carried() & set(KEYS)
    assert "RAY_CHDIR_TO_TRIAL_DIR" in carried()
