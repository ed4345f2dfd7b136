"""A stack without probes, as a benchmark trains it: the same results, and no figure of a probe."""

import torch
from test_stacking import KINDS, make_data, make_trials, run

from langalign.stacking import TrialStack
from langalign.trials import COMPARED, NO_PROBE


def test_trials_end_the_same_without_probes() -> None:
    data = make_data()
    trials = [make_trials(kind)[0] for kind in [*KINDS, "procrustes-uncentred"]]
    stacks = [TrialStack(trials, data, probe=probe) for probe in (COMPARED, NO_PROBE)]
    reports = [run(stack) for stack in stacks]
    for number in range(len(trials)):
        models = [stack.finished[number].model.state_dict() for stack in stacks]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    plain = [report for report in reports[1] if report.is_probe]
    assert plain
    assert all(report.score == report.validation for report in plain)
    assert any(report.score != report.validation for report in reports[0] if report.is_probe)
