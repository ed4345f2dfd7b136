"""Training and sweep as a user meets them without Ray: --help, exit status, one clear line."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import ray
from optuna.trial import TrialState

from cluster import session
from cluster.study import StudyFile
from cluster.tune import Sweep
from jobs import sweep, train
from langalign.config import PipelineConfig
from langalign.configfile import describe_keys
from langalign.searchspace import SweepConfig

ROOT = Path(__file__).parents[2]
OWN_DATA = ("data.parallel=pairs.tsv", "data.test=test.csv")


class Ended:
    """Exit status, standard output and standard error of a command that has ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def line(self) -> str:
        """The one line of standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


class Main:
    """Calls a job's `main` in this process, with the given arguments."""

    def __init__(
        self, job: Any, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.job, self.capsys, self.patch = job, capsys, patch

    def __call__(self, *arguments: str) -> Ended:
        self.patch.setattr(sys, "argv", [Path(self.job.__file__).name, *arguments])
        try:
            status = self.job.main()
        except SystemExit as stop:  # argparse ends --help and a bad flag so
            status = int(stop.code or 0)
        assert not ray.is_initialized()
        return Ended(status, *self.capsys.readouterr())


@pytest.fixture
def main(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Main:
    """Of the training job, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return Main(train, capsys, monkeypatch)


@pytest.fixture
def sweep_main(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Main:
    """Of the sweep, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return Main(sweep, capsys, monkeypatch)


def process(folder: Path, *arguments: str) -> Ended:
    """The same as a user types it, in a process of its own."""
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return Ended(run.returncode, run.stdout, run.stderr)


def test_help_lists_every_key_with_its_default(main: Main) -> None:
    ended = main("--help")
    assert ended.status == 0
    for key, kind, default, text in describe_keys(PipelineConfig):
        assert f"  {key} " in ended.out
        assert f"{kind} = {default}\n" in ended.out
        assert text in ended.out


def test_an_unknown_key_exits_2_and_suggests_the_right_one(main: Main) -> None:
    ended = main("aligner.knd=fc")
    assert ended.status == 2
    assert "unknown key 'aligner.knd'; did you mean 'aligner.kind'?" in ended.line()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seed=first"], "seed='first'"),
        (["aligner.kind=svd"], "aligner.kind='svd'"),
        (["tune.learning_rate=-1"], "tune.learning_rate=-1"),
        (["seed"], "'seed' is not of the form key=value"),
        (["cluster.workers=3"], "must be a multiple"),
        (["--config", "absent.yaml"], "--config absent.yaml: No such file"),
        (["storage=gs://bucket"], "gs://bucket"),
        (["data.train=rows.csv"], "data.target_language"),
    ],
)
def test_a_bad_value_exits_2_with_one_line_naming_it(
    main: Main, arguments: list[str], said: str
) -> None:
    ended = main(*arguments)
    assert ended.status == 2
    assert said in ended.line()


def test_an_unknown_flag_exits_2(main: Main) -> None:
    ended = main("--seed=1")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].endswith("unrecognized arguments: --seed=1")


def test_a_missing_data_file_exits_1_naming_it(main: Main) -> None:
    ended = main("data.train=absent.csv", *OWN_DATA)
    assert ended.status == 1
    assert ended.line().startswith("failed: absent.csv: no such file or folder")


def test_a_missing_column_exits_1_naming_file_column_and_remedy(main: Main) -> None:
    Path("rows.csv").write_text("review,label\nfine,positive\n", encoding="utf-8")
    ended = main("data.train=rows.csv", *OWN_DATA)
    assert ended.status == 1
    for said in ("rows.csv", "'text'", "task.text"):
        assert said in ended.line()


def test_a_config_file_with_an_unknown_key_exits_2(main: Main) -> None:
    Path("mine.yaml").write_text("tune:\n  epochs: 3\n", encoding="utf-8")
    ended = main("--config", "mine.yaml")
    assert ended.status == 2
    assert "unknown key 'tune.epochs'; did you mean 'tune.max_epochs'?" in ended.line()


def test_a_run_that_stops_after_prepare_needs_no_ray(main: Main) -> None:
    ended = main("stop_after=prepare", "storage=store", "data.train_rows=50", "data.native=null")
    assert ended.status == 0, ended.err
    assert Path("store/runs/demo/summary.json").is_file()


# --- the sweep ---------------------------------------------------------------------------------


def test_help_of_the_sweep_lists_every_key_with_its_default(sweep_main: Main) -> None:
    ended = sweep_main("--help")
    assert ended.status == 0
    for key, kind, default, text in describe_keys(SweepConfig):
        assert f"  {key} " in ended.out
        assert f"{kind} = {default}\n" in ended.out
        assert text in ended.out


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("space.detph={low: 2, high: 3}", "unknown key 'space.detph'; did you mean 'space.depth'?"),
        ("space.depth={low: 5, high: 3}", "space.depth={'low': 5, 'high': 3}: low=5 is over"),
        ("space.dropout=[0.1, 1.5]", "space.dropout holds 1.5, which aligner.dropout cannot be"),
    ],
)
def test_a_bad_space_exits_2_with_one_line_naming_it(
    sweep_main: Main, argument: str, said: str
) -> None:
    ended = sweep_main(argument)
    assert ended.status == 2
    assert said in ended.line()


def test_a_sweep_without_any_score_exits_1_with_one_line_and_publishes_nothing(
    sweep_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(_: Sweep, file: StudyFile, *__: Any) -> None:
        for trial in (file.study.ask(), file.study.ask()):
            trial.set_user_attr("reason", "align: epoch 0 gave loss nan")
            file.study.tell(trial, state=TrialState.FAIL)

    monkeypatch.setattr(session, "checked_session", lambda *_: nullcontext())
    monkeypatch.setattr(Sweep, "_embedded", lambda _: (None, {}, {}))
    monkeypatch.setattr(Sweep, "_identity", lambda *_: {"data": "d"})
    monkeypatch.setattr(Sweep, "search", diverge)
    ended = sweep_main("storage=store", "name=swept", "sweep.trials=2")
    assert ended.status == 1
    assert ended.line() == (
        "failed: no trial of 2 reached a score, so nothing is published: "
        "align: epoch 0 gave loss nan"
    )
    assert not Path("store/models").exists()


# --- in a process of its own -------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_process_of_its_own_nothing_ends_in_a_traceback(tmp_path: Path) -> None:
    missing = process(tmp_path, "data.train=absent.csv", *OWN_DATA)
    assert missing.status == 1
    assert missing.line().startswith("failed: absent.csv")
    unknown = process(tmp_path, "aligner.knd=fc")
    assert unknown.status == 2
    assert "did you mean 'aligner.kind'?" in unknown.line()
    shown = process(tmp_path, "--help")
    assert (shown.status, shown.err) == (0, "")
    assert "keys (type = default, meaning):" in shown.out
