"""What Ray Tune tells the driver of a sweep while it searches: shown, and ended where it must."""

from typing import Any

from ray import tune
from rich.markup import escape

from cluster.display import Display
from cluster.monitor import Progress
from cluster.pace import Pace
from cluster.study import StudyFile, is_spent
from langalign.sweepreport import trials_table
from langalign.sweepresult import completed, top_trials

__all__ = ["TakenStopper", "Watch"]

LEADING = 8  # rows of the table


class TakenStopper(tune.Stopper):  # type: ignore[misc]
    """Ends a search whose study another driver has claimed."""

    def __init__(self, file: StudyFile) -> None:
        self.file = file

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never a bundle by itself."""
        return False

    def stop_all(self) -> bool:
        """Asked after every step of Tune."""
        return self.file.is_taken


class Watch(tune.Callback):  # type: ignore[misc]
    """Shows trials done of all, the time that is left, and a table of the best so far.

    Says it, once, when the study cannot be stored.
    """

    def __init__(self, file: StudyFile, display: Display, trials: int) -> None:
        self.file = file
        self.display = display
        self.trials = trials
        self.pace = Pace(trials - file.spent())
        self.is_warned = False

    def __getstate__(self) -> dict[str, Any]:
        # Tune writes its callbacks beside its state, and a terminal cannot be written.
        return {}

    def on_trial_result(self, *_: Any, **__: Any) -> None:
        """After an epoch of a trial."""
        self._show()

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """After a trial."""
        self._show()

    def _show(self) -> None:
        self._warn()
        trials = self.file.study.get_trials(deepcopy=False)
        done = sum(map(is_spent, trials))
        score = max((trial.value or 0.0 for trial in completed(trials)), default=None)
        best = "no score yet" if score is None else f"best {100 * score:.1f}"
        note = ", ".join(filter(None, (best, self.pace.text(self.trials - done))))
        leading = trials_table("Leading trials", top_trials(trials, LEADING))
        self.display.show(
            Progress("trials", done, self.trials, note, score),
            leading,
        )

    def _warn(self) -> None:
        fault = self.file.fault
        if fault and not self.is_warned:
            text = f"{escape(str(fault))}; tried again at every change"
            self.display.console.print(f"  [yellow]not stored[/yellow]  {text}")
        self.is_warned = fault is not None
