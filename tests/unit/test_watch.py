"""What a sweep shows on a terminal while it searches."""

import io
from pathlib import Path

from rich.console import Console

from cluster.display import Display
from cluster.study import StudyFile
from cluster.watch import Watch
from langalign.storage import Storage


def test_a_terminal_shows_how_many_are_done_the_best_the_time_left_and_the_leading_trials(
    tmp_path: Path,
) -> None:
    out = io.StringIO()
    display = Display(Console(file=out, force_terminal=True, color_system=None, width=120))
    file = StudyFile(Storage(str(tmp_path / "store")), "study.journal", "swept", tmp_path)
    watch = Watch(file, display, trials=4)
    done, running = file.study.ask(), file.study.ask()
    done.suggest_int("aligner.depth", 3, 3)
    running.suggest_int("aligner.depth", 5, 5)
    running.report(0.25, 1)
    file.study.tell(done, 0.5)
    with display.step("search"):
        watch.on_trial_result()
    # The last frame: the bar's line, then the table below it.
    frame = out.getvalue().rpartition("trials 1/4")[2]
    assert "best 50.0, about" in frame
    assert "s left" in frame
    table = frame.partition("Leading trials")[2]
    assert table.index("depth=3") < table.index("depth=5")
