"""The shapes of this server's own API, version 1: requests are checked against them, answers follow them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

Number = Annotated[StrictInt | StrictFloat, Field(allow_inf_nan=False)]


class DecodingOptions(BaseModel):
    """How to decode; what is absent is the model's own default, or off. See `Decoding` in the library."""

    model_config = ConfigDict(extra="ignore")

    beam_size: StrictInt | None = Field(default=None, ge=1, le=64, description="hypotheses kept; 1 is greedy")
    length_penalty: Number | None = Field(default=None, ge=0, le=10)
    coverage_penalty: Number | None = Field(default=None, ge=0, le=10)
    patience: Number | None = Field(default=None, ge=1, le=10)
    early_stop: StrictBool | None = None
    max_length: StrictInt | None = Field(default=None, ge=1, description="most tokens of a sentence")
    max_length_ratio: Number | None = Field(default=None, ge=0, le=1000)
    min_length: StrictInt | None = Field(default=None, ge=0)
    min_length_ratio: Number | None = Field(default=None, ge=0, le=1000)
    shortlist: StrictBool | None = Field(
        default=None, description="choose among tokens that may translate the source's"
    )
    suppress: list[StrictStr] | None = Field(
        default=None, max_length=1000, description="pieces that never come"
    )
    no_repeat_ngram: StrictInt | None = Field(default=None, ge=0, le=1000)
    repetition_penalty: Number | None = Field(default=None, ge=1, le=100)
    loop_guard: StrictInt | None = Field(default=None, ge=0, le=1000, description="4 by default; 0 is off")
    temperature: Number | None = Field(
        default=None, ge=0.001, le=100, description="this or the next three: draw tokens"
    )
    top_k: StrictInt | None = Field(default=None, ge=0)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    seed: StrictInt | None = Field(default=None, ge=0, lt=2**64)
    prefix: StrictStr | None = Field(
        default=None, max_length=1000, description="what every translation begins with"
    )


class TranslateRequest(BaseModel):
    """Texts to translate; unknown fields are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"text": "Ein Hund rennt über die Wiese.", "source": "de", "target": "en", "alignment": True}
            ]
        },
    )

    text: StrictStr | list[StrictStr] = Field(description="a text, or an array of texts")
    source: StrictStr = Field(
        "auto", max_length=20, description="language code; auto finds it out for each text"
    )
    target: StrictStr = Field(max_length=20, description="language code")
    format: Literal["text", "html", "xml"] = "text"
    n_best: StrictInt = Field(1, ge=1, description="translations of each text")
    split_sentences: StrictBool = True
    protect: StrictBool = Field(True, description="keep placeholders, addresses and numbers as they are")
    alignment: StrictBool = Field(False, description="tell which word stands for which")
    decoding: DecodingOptions = DecodingOptions()
    deadline: Number | None = Field(
        default=None, gt=0, le=3600, description="seconds; the server's own when absent"
    )


class DetectRequest(BaseModel):
    """Texts whose language is wanted."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"text": ["Guten Morgen!"]}]})

    text: StrictStr | list[StrictStr]


class AlignedWords(BaseModel):
    """A word of the translation, and the words of the source that it stands for; offsets in characters."""

    target: tuple[int, int]
    source: list[tuple[int, int]]


class SentenceHypothesis(BaseModel):
    """One translation of a sentence."""

    text: str
    score: float = Field(description="log-probability / tokens ** length_penalty")
    log_probability: float
    tokens: int = Field(description="with the end token")
    token_log_probabilities: list[float]
    truncated: bool = Field(description="no end was found: length limit or loop")
    looped: bool = Field(description="it repeated itself and was ended")
    pieces: list[str] | None = Field(
        default=None,
        description="what the engine made; with masks where placeholders were. With alignment only",
    )
    source_pieces: list[str] | None = Field(default=None, description="what the engine read")
    piece_alignment: list[int] | None = Field(
        default=None, description="for each piece the number of the source piece that it stands for"
    )


class TranslatedSentence(BaseModel):
    """A sentence, where it is in its text and in the translation, and its translations, best first."""

    source: str
    source_start: int
    target_start: int
    suspicious: bool = Field(description="far longer or shorter than the source lets expect")
    kept: bool = Field(description="not translated: it holds nothing that the model knows")
    attempts: int = Field(description="more than 1: decoded again to keep what must survive")
    hypotheses: list[SentenceHypothesis]
    alignment: list[AlignedWords] | None = None


class TextHypothesis(BaseModel):
    """One translation of a whole text."""

    text: str
    score: float
    truncated: bool
    looped: bool


class DetectedGuess(BaseModel):
    """A language, and how sure that is: 0 to 1, among all languages that the detector knows."""

    language: str
    confidence: float


class TextTranslation(BaseModel):
    """A text's translation."""

    text: str
    source: str
    target: str
    model: str | None = Field(description="absent for a text that was in the target language already")
    detected: DetectedGuess | None = None
    hypotheses: list[TextHypothesis]
    sentences: list[TranslatedSentence]


class Timing(BaseModel):
    """Milliseconds."""

    queue_ms: float
    tokenize_ms: float
    decode_ms: float
    total_ms: float


class Usage(BaseModel):
    """What was read and made."""

    characters: int
    sentences: int
    source_tokens: int
    target_tokens: int
    retried_sentences: int
    cached_sentences: int


class TranslateResponse(BaseModel):
    """Translations in the order of the texts."""

    translations: list[TextTranslation]
    timing: Timing
    usage: Usage


class DetectResponse(BaseModel):
    """The loaded languages of each text, best first."""

    detections: list[list[DetectedGuess]]


class CompareRequest(BaseModel):
    """A sentence for a model and its dense twin."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [{"text": "Ein Hund rennt über die Wiese.", "source": "de", "target": "en"}]
        },
    )

    text: StrictStr
    source: StrictStr = Field("auto", max_length=20)
    target: StrictStr = Field(max_length=20)


class Entrant(BaseModel):
    """One of the two; times are of its engine alone, on one thread."""

    text: str
    median_ms: float
    min_ms: float
    max_ms: float
    tokens: int = Field(description="made, with the end tokens")
    precision: str
    linear_parameters: int = Field(description="numbers in the linear layers")
    weight_bytes: int = Field(description="bytes of them")


class CompareResponse(BaseModel):
    """How both fared; they ran in turn."""

    isa: str
    runs: int
    kmatrix: Entrant
    dense: Entrant


class Model(BaseModel):
    """A loaded model."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    source: str
    target: str
    isa: str
    sha256: str
    generation: dict[str, Any] = Field(description="how it decodes when a request does not say")
    parameters: dict[str, Any]
    quality: dict[str, Any]


class ModelList(BaseModel):
    """All loaded models."""

    models: list[Model]


class Reloaded(BaseModel):
    """Names of the models that were read again."""

    reloaded: list[str]


FILE_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["file", "target"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "source": {"type": "string", "default": "auto"},
        "target": {"type": "string"},
    },
}
SHAPES = (
    TranslateRequest,
    TranslateResponse,
    DetectRequest,
    DetectResponse,
    CompareRequest,
    CompareResponse,
    ModelList,
    Reloaded,
)
