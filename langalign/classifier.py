"""The task head, and encoder, aligner and head joined into one classifier.

Shapes: B rows, D embedding width, C classes.
"""

from typing import cast

from torch import Tensor, nn

from langalign.aligners import Aligner, Direction
from langalign.dropout import Dropout

__all__ = ["AlignedHead", "ClassificationHead"]


class ClassificationHead(nn.Module):
    """XLM-R's own classification head: dropout, dense, tanh, dropout, projection (section 3.2)."""

    def __init__(self, width: int, classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.out_proj = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, D) to logits (B, C)."""
        x = self.dropout(x).to(self.dense.weight.dtype)
        return cast(Tensor, self.out_proj(self.dropout(self.dense(x).tanh())))


class AlignedHead(nn.Module):
    """Aligner and head for one direction: embeddings of either language to logits."""

    def __init__(self, aligner: Aligner, head: ClassificationHead, *, direction: Direction) -> None:
        super().__init__()
        self.aligner = aligner
        self.head = head
        self.direction = direction

    def forward(self, x: Tensor, *, of_target: bool) -> Tensor:
        """Embeddings (B, D) of the target language, or of English, to logits (B, C)."""
        aligned = self.aligner.head_input(x, direction=self.direction, of_target=of_target)
        return cast(Tensor, self.head(aligned))
