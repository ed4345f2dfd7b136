"""What a team would write first: FastAPI and uvicorn around a model, on loopback.

    python benchmarks/serving_peer.py pipeline FOLDER PORT THREADS PRECISION
    python benchmarks/serving_peer.py sentence-transformers FOLDER PORT THREADS PRECISION

`pipeline` is a transformers text-classification pipeline; `sentence-transformers` gives embeddings
(first token) only. benchmarks/serving.py starts both.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from random_encoder import MAX_LENGTH
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import pipeline

from langalign.encoder import PRECISIONS


class Request(BaseModel):
    """As the service's, as far as the load uses it."""

    language: str
    inputs: list[str]


def classify_with(folder: str, dtype: torch.dtype) -> Callable[[list[str]], dict[str, Any]]:
    """Labels and scores, by a transformers pipeline."""
    cut = {"max_length": MAX_LENGTH, "truncation": True}
    pipe = pipeline("text-classification", model=folder, top_k=None, dtype=dtype, **cut)
    return lambda texts: {"predictions": pipe(texts)}


def embed_with(folder: str, dtype: torch.dtype) -> Callable[[list[str]], dict[str, Any]]:
    """Embeddings, by sentence-transformers."""
    transformer = Transformer(folder, max_seq_length=MAX_LENGTH)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling]).to(dtype)
    return lambda texts: {"embeddings": model.encode(texts).tolist()}


WAYS = {"pipeline": classify_with, "sentence-transformers": embed_with}


def main() -> None:
    """Serve until stopped."""
    way, folder, port, threads, precision = sys.argv[1:]
    torch.set_num_threads(int(threads))
    answer = WAYS[way](folder, PRECISIONS[precision])
    app = FastAPI()

    @app.post("/v1/classify")
    def classify(request: Request) -> dict[str, Any]:
        return answer(request.inputs)

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main()
