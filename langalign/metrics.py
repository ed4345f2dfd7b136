"""Scores as sums and counts that add up over workers and are divided once, at the end.

A mean of per-worker means is wrong as soon as workers hold different row counts, and F1 is not a
mean at all. So a worker contributes a confusion matrix, or a (sum, count) pair, and the totals
give the score.
"""

import torch
from torch import Tensor

__all__ = ["accuracy", "class_table", "confusion", "cosine_total", "f1", "macro_f1", "score"]


def confusion(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Counts (C, C) int64: row is the label, column the prediction."""
    cells = labels.to(torch.int64) * classes + predictions.to(torch.int64)
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


def accuracy(counts: Tensor) -> float:
    """Share of rows whose prediction is the label; 0 for no rows."""
    return _ratio(counts.diagonal().sum().item(), counts.sum().item())


def f1(counts: Tensor, positive: int = 1) -> float:
    """F1 of one class: 2 TP / (2 TP + FP + FN); 0 where the class is neither present nor said."""
    hits = counts[positive, positive].item()
    return _ratio(2 * hits, counts[positive].sum().item() + counts[:, positive].sum().item())


def macro_f1(counts: Tensor) -> float:
    """Unweighted mean of the classes' F1."""
    classes = counts.shape[0]
    return sum(f1(counts, c) for c in range(classes)) / classes


def score(metric: str, counts: Tensor) -> float:
    """The task's metric (`accuracy`, `f1`, `macro_f1`), each in 0 to 1, higher is better."""
    return {"accuracy": accuracy, "f1": f1, "macro_f1": macro_f1}[metric](counts)


def class_table(counts: Tensor, labels: tuple[str, ...]) -> list[dict[str, float | int | str]]:
    """Precision, recall, F1 and row count of every class."""
    rows: list[dict[str, float | int | str]] = []
    for c, name in enumerate(labels):
        hits = counts[c, c].item()
        rows.append(
            {
                "label": name,
                "precision": _ratio(hits, counts[:, c].sum().item()),
                "recall": _ratio(hits, counts[c].sum().item()),
                "f1": f1(counts, c),
                "rows": int(counts[c].sum().item()),
            }
        )
    return rows


def cosine_total(a: Tensor, b: Tensor) -> Tensor:
    """Sum of cosine similarities of paired rows (N, D), and their count, as a tensor (2,)."""
    similarity = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)
    count = torch.tensor(float(len(a)), dtype=torch.float64, device=similarity.device)
    return torch.stack([similarity.sum(), count])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
