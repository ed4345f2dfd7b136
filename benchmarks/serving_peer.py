"""What a team would write first: FastAPI around a model, for uvicorn to run.

    PEER_WAY=pipeline PEER_FOLDER=FOLDER PEER_THREADS=2 PEER_PRECISION=fp32 \\
        python -m uvicorn --app-dir benchmarks --factory serving_peer:create --workers 1

PEER_WAY `pipeline` is a transformers text-classification pipeline; `sentence-transformers` gives
embeddings (first token) only. benchmarks/serving.py starts both. PEER_THREADS are those of one
worker.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
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


def create() -> FastAPI:
    """The application of one worker."""
    way, folder, threads, precision = (
        os.environ[f"PEER_{part}"] for part in ("WAY", "FOLDER", "THREADS", "PRECISION")
    )
    torch.set_num_threads(int(threads))
    answer = WAYS[way](folder, PRECISIONS[precision])
    app = FastAPI()

    @app.post("/v1/classify")
    def classify(request: Request) -> dict[str, Any]:
        return answer(request.inputs)

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    return app
