"""Keys of `jobs/translate.py`: what is translated, by whom, and what it costs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from langalign.benchmarkconfig import LocalConfig
from langalign.config import ClusterConfig, Section, TaskConfig

__all__ = ["TranslateConfig", "TranslatorConfig"]

# Figure 6 of the paper, with the language put in: a message before the text and one after it.
PROMPT = "Translate the following input sentence into {language}. Output only the translation."
TAIL = "Translation:"


class TranslatorConfig(Section):
    """Who translates. The key of an API is in OPENAI_API_KEY, and is never written anywhere."""

    kind: Literal["dictionary", "api", "local"] = Field(
        "dictionary",
        description="dictionary: the demo's own language; api: OpenAI-compatible; "
        "local: a model fine-tuned on `parallel`, as `local` says",
    )
    url: str = Field("https://api.openai.com/v1", description="where /chat/completions begins")
    model: str | None = Field(None, description="the service's name of the model")
    prompt: str = Field(PROMPT, description="message before the text; {language} is put in")
    tail: str | None = Field(TAIL, description="message after the text; empty: none")
    temperature: float = Field(1.0, ge=0, le=2, description="the paper's: 1.0")
    concurrency: int = Field(8, gt=0, description="calls at once")
    requests_per_minute: float | None = Field(None, gt=0, description="calls a minute at most")
    retries: int = Field(6, ge=0, description="calls again where the service is busy or away")
    timeout_s: float = Field(60.0, gt=0, description="seconds for one call")
    refused_share: float = Field(
        0.05, ge=0, le=1, description="texts refused for good that are left out; more end the job"
    )
    prompt_price: float = Field(0.0, ge=0, description="price of a million tokens of input")
    completion_price: float = Field(0.0, ge=0, description="price of a million tokens of output")

    @model_validator(mode="after")
    def _has_model(self) -> Self:
        if self.kind == "api" and not self.model:
            raise ValueError("translator.kind=api needs translator.model, the model's name there")
        return self


class TranslateConfig(Section):
    """English rows to translated pairs, as `data.parallel` takes them."""

    name: str = Field("translate", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="run name")
    storage: str | None = Field(
        None, description="folder or s3://bucket/prefix; unset: LANGALIGN_STORAGE"
    )
    data: str = Field("demo", description="labelled English rows: a file, folder, s3://…, hub:…")
    rows: int | None = Field(None, gt=0, description="translate a sample of so many rows")
    seed: int = Field(0, ge=0, description="seed of that sample")
    task: TaskConfig = TaskConfig()
    source_language: str = Field("en", description="language code of the rows")
    target_language: str = Field("xc", description="language code of the translations")
    language: str | None = Field(None, description="its name in the prompt; unset: the code")
    part_texts: int = Field(200, gt=0, description="translations in one stored part")
    translator: TranslatorConfig = TranslatorConfig()
    parallel: str = Field(
        "demo", description="translated sentences that a local model learns: source, target"
    )
    pairs: int | None = Field(None, gt=0, description="use at most this many of them")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="share of them held out for choosing the epoch"
    )
    local: LocalConfig = LocalConfig()
    cluster: ClusterConfig = ClusterConfig()
