"""New versions, canaries and rollback while requests go on; bad versions never answer."""

import errno
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import torch
from local_service import LocalParts, parts_of
from published import LABELS, publish, write_encoder

from langalign import artifacts
from langalign.errors import ArtifactError, IntegrityError, ServingError, StorageError
from langalign.storage import Storage
from serve import release
from serve.app import build
from serve.loading import Loader
from serve.settings import Settings
from serve.smoke import smoke_key

NAME = "tiny"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def versions(tmp_path: Path, storage: Storage, encoder: Path) -> Any:
    """Publishes a version; returns its name."""
    (tmp_path / "scratch").mkdir()

    def publish_next(seed: int, **options: Any) -> str:
        root = Path(storage.root)
        return publish(root, encoder, tmp_path / "scratch", name=NAME, seed=seed, **options).version

    return publish_next


def serving(parts: LocalParts) -> str:
    return parts.registry.choose(NAME, "xc").version


def look(parts: LocalParts) -> str:
    parts.registry.refresh()
    return serving(parts)


def alter(storage: Storage, version: str) -> None:
    path = Path(storage.root, "models", NAME, version, "head.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage(storage: Storage, version: str) -> None:
    path = Path(storage.root, "models", NAME, version, "manifest.json")
    path.write_text('{"written_by": "another release"}')


def refusals(parts: LocalParts) -> dict[str, str]:
    (card,) = parts.registry.cards()
    return {refused.version: refused.reason for refused in card.refused}


def test_a_new_version_takes_over_and_a_request_keeps_the_one_it_began_with(
    storage: Storage, versions: Any
) -> None:
    old = versions(1)
    parts = parts_of(storage, [NAME])
    assert look(parts) == old
    held = parts.registry.choose(NAME, "xc")
    new = versions(2)
    assert serving(parts) == old
    assert look(parts) == new
    assert held.version == old
    assert held.model.predict(["a good film"])[0] in LABELS
    assert parts.registry.choose(NAME, "xc").model.encoder is held.model.encoder


def test_an_altered_version_is_refused_and_the_old_one_goes_on(
    storage: Storage, versions: Any
) -> None:
    old = versions(1)
    parts = parts_of(storage, [NAME])
    bad = versions(2)
    alter(storage, bad)
    assert look(parts) == old
    assert look(parts) == old
    assert "sha256" in refusals(parts)[bad]
    better = versions(3)
    assert look(parts) == better


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aligner": {"kind": "ae", "depth": 3}}, "cannot be loaded"),
        ({"aligner": {"kind": "of another release"}}, "kind"),
        ({"labels": ("no", "yes")}, "clients know"),
        ({"target": "xd"}, "clients know"),
        ({"is_pair_task": True}, "clients know"),
    ],
)
def test_a_version_that_does_not_fit_is_refused(
    storage: Storage, versions: Any, changes: dict[str, Any], reason: str
) -> None:
    old = versions(1)
    parts = parts_of(storage, [NAME])
    bad = versions(2, **changes)
    assert look(parts) == old
    assert reason in refusals(parts)[bad]


def test_a_version_has_to_pass_the_smoke_set(storage: Storage, versions: Any) -> None:
    old = versions(1)
    parts = parts_of(storage, [NAME])
    texts = ["a good film", "dull", "well made", "the plot was thin"]
    labels = parts.registry.choose(NAME, "xc").model.predict(texts)
    rows = [
        {"language": "xc", "input": text, "label": label}
        for text, label in zip(texts, labels, strict=True)
    ]
    storage.write_json(smoke_key(NAME), {"min_accuracy": 1.0, "rows": rows})
    bad = versions(5)
    assert look(parts) == old
    assert "of the 4 rows of its smoke set right" in refusals(parts)[bad]
    assert parts_of(storage, [NAME]).registry.choose(NAME, "xc").version == old


def test_a_smoke_set_half_edited_stops_the_update_and_refuses_nothing(
    storage: Storage, versions: Any
) -> None:
    old = versions(1)
    parts = parts_of(storage, [NAME])
    new = versions(2)
    storage.write_bytes(smoke_key(NAME), b'{"rows": [')
    assert look(parts) == old
    assert refusals(parts) == {}
    storage.delete(smoke_key(NAME))
    assert look(parts) == new


def test_storage_out_of_reach_changes_nothing_and_is_tried_again(
    storage: Storage, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = versions(1)
    parts = parts_of(storage, [NAME])
    new = versions(2)

    def down(*key: Any) -> bytes:
        raise StorageError("storage is out of reach")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "read_bytes", down)
        assert look(parts) == old
    assert refusals(parts) == {}
    assert look(parts) == new


def test_a_start_on_a_bad_latest_version_takes_the_one_before(
    storage: Storage, versions: Any
) -> None:
    versions(1)
    good, bad = versions(2), versions(3)
    alter(storage, bad)
    parts = parts_of(storage, [NAME])
    assert serving(parts) == good
    assert list(refusals(parts)) == [bad]
    assert look(parts) == good


def test_a_start_looks_at_older_versions_only_if_the_wanted_one_fails(
    storage: Storage, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(1)
    new = versions(2)
    monkeypatch.setattr(release, "older_versions", lambda *place: pytest.fail("looked"))
    assert serving(parts_of(storage, [NAME])) == new


def test_a_damaged_old_manifest_stops_no_start_no_canary_and_no_rollback(
    storage: Storage, versions: Any
) -> None:
    oldest, damaged, old, new = versions(1), versions(2), versions(3), versions(4)
    damage(storage, damaged)
    alter(storage, new)
    assert serving(parts_of(storage, [NAME])) == old
    release.write_pin(storage, NAME, old)
    assert release.write_rollback(storage, NAME).version == oldest
    release.write_following(storage, NAME)
    alter(storage, new)
    assert release.write_canary(storage, NAME, new, 0.5).version == old


def test_where_the_latest_manifest_is_damaged_the_version_before_answers(
    storage: Storage, versions: Any
) -> None:
    versions(1)
    old, new = versions(2), versions(3)
    running = parts_of(storage, [NAME])
    damage(storage, new)
    build(Settings(model=[storage.uri(f"models/{NAME}")]))
    started = parts_of(storage, [NAME])
    assert serving(started) == look(started) == old
    assert "damaged" in refusals(started)[new]
    assert look(running) == new
    assert release.write_rollback(storage, NAME).version == old


def test_nothing_takes_the_place_of_a_pinned_version_that_is_damaged(
    storage: Storage, versions: Any
) -> None:
    """When it was published is not known any more, and a newer one may be what it replaced."""
    versions(1)
    pinned = versions(2)
    versions(3)
    release.write_pin(storage, NAME, pinned)
    damage(storage, pinned)
    with pytest.raises(ArtifactError, match="no version that can be served"):
        parts_of(storage, [NAME])


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_what_this_machine_lacks_for_a_moment_refuses_no_version(
    storage: Storage, versions: Any, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    old = versions(1)
    parts = parts_of(storage, [NAME])
    new = versions(2)

    def lacking(*place: Any) -> Any:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "load", lacking)
        assert look(parts) == old
        with pytest.raises(ServingError, match="cannot be loaded now"):
            parts_of(storage, [NAME])
    assert refusals(parts) == {}
    assert look(parts) == new


def test_a_fault_during_the_check_refuses_the_version(
    storage: Storage, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = versions(1)
    parts = parts_of(storage, [NAME])
    bad = versions(2)

    def broken(*requests: Any) -> Any:
        raise IndexError("index out of range in self")

    monkeypatch.setattr(parts.registry, "_engine", SimpleNamespace(run=broken))
    assert look(parts) == old
    assert "index out of range" in refusals(parts)[bad]


def test_the_log_says_what_answers_once_it_does(
    storage: Storage, versions: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, "ray.serve"):
            old = versions(1)
            parts = parts_of(storage, [NAME])
            new = versions(2)
            release.write_canary(storage, NAME, new, 0.25)
            look(parts)
            look(parts)
            damage(storage, versions(3))
            release.write_following(storage, NAME)
            look(parts)
    finally:
        logger.removeHandler(caplog.handler)
    assert [line for line in caplog.messages if "in service" in line] == [
        f"model {NAME} in service: {old}",
        f"model {NAME} in service: {old}, and {new} for 25.0% of requests",
        f"model {NAME} in service: {old}",
    ]


def test_a_start_without_any_good_version_fails(storage: Storage, versions: Any) -> None:
    alter(storage, versions(1))
    with pytest.raises(ArtifactError, match="no version that can be served"):
        parts_of(storage, [NAME])


def test_a_version_named_by_its_address_stays(storage: Storage, versions: Any) -> None:
    old = versions(1)
    parts = parts_of(storage, [storage.uri(f"models/{NAME}/{old}")])
    versions(2)
    assert look(parts) == old


def counts(parts: LocalParts, requests: int = 1000) -> dict[str, int]:
    found = [serving(parts) for _ in range(requests)]
    return {version: found.count(version) for version in set(found)}


def test_a_canary_gets_its_share_and_can_be_promoted(storage: Storage, versions: Any) -> None:
    old = versions(1)
    release.write_pin(storage, NAME, old)
    parts = parts_of(storage, [NAME])
    new = versions(2)
    assert look(parts) == old
    release.write_canary(storage, NAME, new, 0.2)
    look(parts)
    # 1,000 draws at 0.2: outside these bounds once in 10^9 runs.
    assert 120 < counts(parts)[new] < 290
    (card,) = parts.registry.cards()
    assert (card.version, card.canary_version, card.canary_share) == (old, new, 0.2)
    release.write_promotion(storage, NAME)
    look(parts)
    assert counts(parts, 50) == {new: 50}


def test_rollback_ends_a_canary_and_then_goes_back_a_version(
    storage: Storage, versions: Any
) -> None:
    oldest, old, new = versions(1), versions(2), versions(3)
    parts = parts_of(storage, [NAME])
    release.write_canary(storage, NAME, new, 0.5)
    look(parts)
    # The latest cannot be its own canary: the one before serves beside it.
    assert set(counts(parts)) == {old, new}
    release.write_rollback(storage, NAME)
    look(parts)
    assert set(counts(parts)) == {old}
    release.write_rollback(storage, NAME)
    assert look(parts) == oldest
    with pytest.raises(ArtifactError, match="no version published before"):
        release.write_rollback(storage, NAME)
    release.write_following(storage, NAME)
    assert look(parts) == new


def test_a_refused_canary_gets_no_requests(storage: Storage, versions: Any) -> None:
    old = versions(1)
    release.write_pin(storage, NAME, old)
    parts = parts_of(storage, [NAME])
    new = versions(2)
    release.write_canary(storage, NAME, new, 0.5)
    alter(storage, new)
    look(parts)
    assert set(counts(parts)) == {old}
    assert new in refusals(parts)
    with pytest.raises(IntegrityError):
        release.write_canary(storage, NAME, new, 0.5)


def test_the_command(storage: Storage, versions: Any, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = versions(1), versions(2)
    root = ["--storage", storage.root]

    def run(*words: str) -> tuple[int, str]:
        status = release.main([*root, *words])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    assert run("show", NAME) == (0, f"{NAME}: latest (now {new})\n")
    assert run("pin", NAME, old) == (0, f"{NAME}: {old}\n")
    assert run("canary", NAME, new, "0.1")[1] == (
        f"{NAME}: {old}, and {new} for 10.0% of requests\n"
    )
    assert run("promote", NAME) == (0, f"{NAME}: {new}\n")
    assert run("promote", NAME)[0] == 2
    assert run("rollback", NAME) == (0, f"{NAME}: {old}\n")
    assert run("rollback", NAME)[0] == 1
    assert run("canary", NAME, new, "1.5")[0] == 2
    assert run("pin", NAME, "v-none")[0] == 1
    assert run("follow", NAME)[0] == 0
    # What the command writes beside the versions is none of them.
    assert artifacts.list_versions(storage, NAME) == sorted([old, new])


def test_an_old_encoder_leaves_memory_with_its_last_model(
    storage: Storage, versions: Any, tmp_path: Path
) -> None:
    versions(1)
    parts = parts_of(storage, [NAME])
    old = ref(parts.registry.choose(NAME, "xc").model.encoder)
    other = write_encoder(tmp_path / "other", seed=9)
    publish(Path(storage.root), other, tmp_path / "scratch", name=NAME, seed=8)
    look(parts)
    assert old() is None
