"""Every error that kserve raises on purpose, and the one table that says how each is answered.

KserveError
├── BundleError               a model folder that cannot be used
│   ├── BundleMissing         the folder or one of its files is not there
│   ├── BundleVersion         written for another format version
│   ├── BundleCorrupt         truncated, a flipped byte, unreadable JSON
│   ├── BundleConfigError     config.json says something impossible
│   └── BundleTensorError     a tensor is missing, unknown, of a wrong shape or type, or not finite
├── EngineFailure             the engine refused its instruction set, weights or tokens
├── Cancelled                 the caller cancelled the call
├── InputError                what the caller asked for
│   ├── MissingParameter
│   ├── InvalidParameter
│   ├── InvalidBody           a request body that cannot be parsed
│   ├── TextTooLong
│   ├── TooManyTexts
│   ├── BodyTooLarge
│   ├── BodyTooSlow           a request body that does not arrive in time
│   ├── UnsupportedFile       a file whose kind is not known
│   ├── UnsafeFile            an office file that is damaged, a bomb, or holds macros
│   └── UnsupportedLanguage
├── SettingsError             a KSERVE_ variable or an option with a wrong value
├── AddressInUse              the port is taken
├── MissingDependency         an optional extra is not installed
├── NotReady                  the model is still being warmed up, or the server is stopping
├── Refused                   not now, but perhaps later; says when
│   ├── Overloaded            the queue is full, or too many requests are under way
│   ├── RateLimited           the caller has asked too often
│   └── DeadlineExceeded      there was no answer within the time that was given
├── AccessDenied              a key is unknown, missing, or in the wrong place
│   ├── KeyNeeded
│   └── InvalidKey
├── QuotaExceeded             the key's characters are used up
└── NotFound                  there is no such file or document (any more)
"""

from __future__ import annotations

from typing import NamedTuple


class KserveError(Exception):
    """Base of every error that kserve raises on purpose."""


class BundleError(KserveError, ValueError):
    """A model folder that cannot be used."""


class BundleMissing(BundleError):
    """The folder or one of its files is not there."""


class BundleVersion(BundleError):
    """The folder was written for another version of the format."""


class BundleCorrupt(BundleError):
    """A file is truncated, changed or unreadable."""


class BundleConfigError(BundleError):
    """config.json lacks a field or holds an impossible value."""


class BundleTensorError(BundleError):
    """A tensor is missing, unknown, of a wrong shape or type, or not finite."""


class EngineFailure(KserveError, ValueError):
    """The engine refused its instruction set, its weights or its tokens."""


class Cancelled(KserveError):
    """The caller cancelled the call, so it has no result."""


class InputError(KserveError, ValueError):
    """The caller asked for something that cannot be done."""


class MissingParameter(InputError):
    """A required parameter is absent."""


class InvalidParameter(InputError):
    """A parameter has the wrong type or an impossible value."""


class InvalidBody(InputError):
    """A request body that cannot be parsed."""


class TextTooLong(InputError):
    """The text has more characters than the limit."""


class TooManyTexts(InputError):
    """A request has more texts than the limit."""


class BodyTooLarge(InputError):
    """A request body has more bytes than the limit."""


class BodyTooSlow(InputError):
    """A request body does not arrive in time."""


class UnsupportedFile(InputError):
    """A file of a kind that is not translated."""


class UnsafeFile(InputError):
    """An office file that is damaged, too large when it is unpacked, or holds macros."""


class UnsupportedLanguage(InputError):
    """The language or the pair is not one of the loaded model's."""


class SettingsError(KserveError, ValueError):
    """A setting (KSERVE_ variable or option) has a wrong value."""


class AddressInUse(KserveError, OSError):
    """The address to listen on is taken."""


class MissingDependency(KserveError, ImportError):
    """An optional extra of the distribution is not installed."""


class NotReady(KserveError):
    """The model is not loaded and warmed yet."""


class Refused(KserveError):
    """Not now; trying again after `retry_after` seconds may work."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(Refused):
    """The queue is full, or too many requests are under way."""


class RateLimited(Refused):
    """The caller has asked too often: more than `limit` texts in a minute."""

    def __init__(self, message: str, retry_after: int = 1, limit: int = 0) -> None:
        super().__init__(message, retry_after)
        self.limit = limit


class DeadlineExceeded(Refused):
    """There was no answer within the time that was given."""


class AccessDenied(KserveError):
    """The caller may not do this."""


class KeyNeeded(AccessDenied):
    """A key is needed, and none was given where it is looked for."""


class InvalidKey(AccessDenied):
    """The key is unknown, or does not allow this."""


class QuotaExceeded(KserveError):
    """The characters that the key allows are used up."""


class NotFound(KserveError):
    """There is no such file or document, or it is gone."""


class Answer(NamedTuple):
    """How an error is told: a stable code, the HTTP status, and the label used in counters."""

    code: str
    status: int
    label: str


# The one table. A subclass that is not listed is answered like its nearest listed base.
ANSWERS: dict[type[BaseException], Answer] = {
    BundleMissing: Answer("bundle_missing", 500, "bundle"),
    BundleVersion: Answer("bundle_version", 500, "bundle"),
    BundleCorrupt: Answer("bundle_corrupt", 500, "bundle"),
    BundleConfigError: Answer("bundle_config", 500, "bundle"),
    BundleTensorError: Answer("bundle_tensor", 500, "bundle"),
    BundleError: Answer("bundle", 500, "bundle"),
    EngineFailure: Answer("engine", 500, "engine"),
    # Nobody waits for this answer any more; 499 is what proxies log for it.
    Cancelled: Answer("cancelled", 499, "cancelled"),
    MissingParameter: Answer("missing_parameter", 400, "validation"),
    InvalidParameter: Answer("invalid_parameter", 400, "validation"),
    InvalidBody: Answer("invalid_body", 400, "validation"),
    TextTooLong: Answer("text_too_long", 400, "limit"),
    TooManyTexts: Answer("too_many_texts", 400, "limit"),
    BodyTooLarge: Answer("body_too_large", 413, "limit"),
    BodyTooSlow: Answer("body_too_slow", 408, "limit"),
    UnsupportedFile: Answer("unsupported_file", 400, "validation"),
    UnsafeFile: Answer("unsafe_file", 400, "validation"),
    UnsupportedLanguage: Answer("unsupported_language", 400, "validation"),
    InputError: Answer("invalid_input", 400, "validation"),
    SettingsError: Answer("settings", 500, "settings"),
    AddressInUse: Answer("address_in_use", 500, "settings"),
    MissingDependency: Answer("missing_dependency", 500, "settings"),
    NotReady: Answer("not_ready", 503, "not_ready"),
    Overloaded: Answer("overloaded", 429, "overloaded"),
    RateLimited: Answer("rate_limited", 429, "rate"),
    DeadlineExceeded: Answer("deadline_exceeded", 503, "deadline"),
    Refused: Answer("refused", 503, "overloaded"),
    KeyNeeded: Answer("key_needed", 401, "access"),
    InvalidKey: Answer("invalid_key", 403, "access"),
    AccessDenied: Answer("access_denied", 403, "access"),
    QuotaExceeded: Answer("quota_exceeded", 456, "quota"),
    NotFound: Answer("not_found", 404, "validation"),
    KserveError: Answer("error", 500, "internal"),
}

# What an error that is not ours is answered with; its text is never shown.
INTERNAL = Answer("internal", 500, "internal")


def answer_for(error: BaseException) -> Answer:
    """The table's answer for an error, by its class or nearest listed base."""
    for kind in type(error).__mro__:
        if kind in ANSWERS:
            return ANSWERS[kind]
    return INTERNAL
