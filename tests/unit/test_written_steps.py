"""Steps with a written-out backward pass against autograd's, and what they leave behind.

Shapes: N = 50 rows, D = 12 wide embeddings, C = 3 classes.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from langalign.aligners import LEARNED_KINDS, build_aligner
from langalign.classifier import ClassificationHead
from langalign.loop import FitOptions, make_optimizer, seed_everything
from langalign.stacked_fit import cross_entropy, squared_error
from langalign.steps import EpochRunner

D, CLASSES, ROWS = 12, 3, 50
CPU = torch.device("cpu")


def trained(kind: str, dropout: float, *, is_written: bool) -> tuple[nn.Module, float]:
    """Three epochs of a new module; returns it and the sum of all losses."""
    seed_everything(1)
    module: nn.Module = ClassificationHead(D, CLASSES, dropout=dropout)
    loss: nn.Module = nn.CrossEntropyLoss()
    x = torch.randn(ROWS, D)
    y = x[:, :CLASSES].argmax(-1)
    if kind != "head":
        module = build_aligner(kind, D, hidden=32, dropout=dropout)
        loss, y = nn.MSELoss(), torch.randn(ROWS, D)
    optimizer = make_optimizer(list(module.parameters()), FitOptions(1e-2, weight_decay=0.1), CPU)
    written = (cross_entropy if kind == "head" else squared_error) if is_written else None
    run = EpochRunner(module, optimizer, loss, x, y, 16, written=written)
    total = sum(run(torch.randperm(ROWS)).item() for _ in range(3))
    run.close()
    return module, total


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("kind", [*LEARNED_KINDS, "head"])
def test_weights_and_losses_are_those_of_autograd(kind: str, dropout: float) -> None:
    wanted, wanted_loss = trained(kind, dropout, is_written=False)
    found, found_loss = trained(kind, dropout, is_written=True)
    torch.testing.assert_close(found.state_dict(), wanted.state_dict(), atol=1e-6, rtol=0)
    assert found_loss == pytest.approx(wanted_loss, abs=1e-5)


def test_a_closed_run_leaves_weights_that_share_no_memory(tmp_path: Path) -> None:
    module, _ = trained("ae", 0.0, is_written=True)
    # safetensors refuses tensors that share memory.
    save_file(module.state_dict(), tmp_path / "weights")
    kept: dict[str, Tensor] = load_file(tmp_path / "weights")
    torch.testing.assert_close(kept, module.state_dict())
    assert all(parameter.grad is None for parameter in module.parameters())
