"""One epoch of optimiser steps over embeddings that already sit in memory.

With batches of 16 a step's arithmetic takes microseconds and Python's and the GPU's launch
overhead is what is left, so the rows are gathered once an epoch. On a GPU, the step is captured
once as a CUDA graph and replayed; on a CPU its backward pass is written out (written_steps.py).

Shapes: N rows, B rows of a batch, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from langalign.stacked_fit import Loss as WrittenLoss
from langalign.written_steps import WrittenSteps

__all__ = ["EpochRunner"]

Loss = Callable[[Tensor, Tensor], Tensor]
# Steps in one graph: enough to hide the launch of the graph itself, few enough to capture fast.
GRAPH_STEPS = 16


class EpochRunner:
    """Runs epochs of `optimizer` steps on inputs `x` (N, D) and targets `y` (N, ...).

    `written` is the loss together with its derivative, where `module` is a chain of linear layers.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        written: WrittenLoss | None = None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.loss = loss
        self.x = x
        self.y = y
        self.batch_size = batch_size
        is_parallel = isinstance(module, nn.parallel.DistributedDataParallel)
        is_on_gpu = x.device.type == "cuda"
        self._graph = _GraphedSteps(self) if is_on_gpu and not is_parallel else None
        self._written: WrittenSteps | None = None
        if written and not is_on_gpu and not is_parallel:
            self._written = WrittenSteps(module, optimizer, written)

    def __call__(self, order: Tensor) -> Tensor:
        """Train one epoch on the rows of `order` (N,); returns the sum of the rows' losses."""
        self.module.train()
        order = order.to(self.x.device)
        total = torch.zeros((), device=self.x.device, dtype=torch.float64)
        if self._graph is not None:
            done = self._graph.run(order, total)
            order = order[done:]
        x, y = self.x[order], self.y[order]
        for start in range(0, len(order), self.batch_size):
            end = min(start + self.batch_size, len(order))
            total += self.step(x[start:end], y[start:end]) * (end - start)
        return total

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One optimiser step on a batch (B, D); returns its mean loss."""
        if self._written is not None:
            return self._written(x, y)
        loss = self.loss(self.module(x), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def close(self) -> None:
        """After the last epoch."""
        if self._written is not None:
            self._written.release()


class _GraphedSteps:
    """GRAPH_STEPS optimiser steps captured as one CUDA graph over a moving window of `order`."""

    def __init__(self, runner: EpochRunner) -> None:
        self.runner = runner
        self.rows = GRAPH_STEPS * runner.batch_size
        self.order = torch.zeros(self.rows, dtype=torch.int64, device=runner.x.device)
        self.total = torch.zeros((), dtype=torch.float64, device=runner.x.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, order: Tensor, total: Tensor) -> int:
        """Replay over as many whole windows as `order` holds; returns the rows used."""
        whole = len(order) // self.rows * self.rows
        if not whole:
            return 0
        if self.graph is None:
            self._capture(order)
        assert self.graph is not None
        self.total.zero_()
        for start in range(0, whole, self.rows):
            self.order.copy_(order[start : start + self.rows])
            self.graph.replay()
        total += self.total
        return whole

    def _capture(self, order: Tensor) -> None:
        module, optimizer = self.runner.module, self.runner.optimizer
        weights = {k: v.clone() for k, v in module.state_dict().items()}
        moments = {k: [t.clone() for t in _moments(v)] for k, v in optimizer.state.items()}
        self.order.copy_(order[: self.rows])
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._window()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._window()
        # The warm-up steps were real ones: put weights and moments back.
        module.load_state_dict(weights)
        for parameter, state in optimizer.state.items():
            saved = moments.get(parameter)
            for i, tensor in enumerate(_moments(state)):
                tensor.copy_(saved[i]) if saved else tensor.zero_()

    def _window(self) -> None:
        batch = self.runner.batch_size
        for i in range(GRAPH_STEPS):
            rows = self.order[i * batch : (i + 1) * batch]
            loss = self.runner.step(self.runner.x[rows], self.runner.y[rows])
            self.total += loss * batch


def _moments(state: dict[str, Tensor]) -> list[Tensor]:
    return [state[key] for key in sorted(state)]
