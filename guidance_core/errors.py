"""The few ways in which a request can fail.

Each carries what every dialect needs to say it in its own shape: an HTTP status, a message that says what is wrong and
how to mend it, and, where it is about one field, the field's name. A dialect translates; nobody below a dialect knows a
wire format.
"""

from __future__ import annotations

from typing import ClassVar


class RequestError(Exception):
    """A request that fails. Raised before the first token, or by an executor's iterator in mid-stream.

    Attributes:
        status: HTTP status.
        code: short machine-readable name.
        message: what is wrong and how to mend it.
        param: the request field it is about (a dotted path such as ``response_format.json_schema.schema``), or None.
        retry_after: seconds after which trying again may help, or None.
    """

    status: ClassVar[int] = 500
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with all fields: errors cross the executor's process boundary."""
        return (_rebuild, (type(self), self.message, self.param, self.code, self.retry_after))


def _rebuild(
    kind: type[RequestError], message: str, param: str | None, code: str | None, retry_after: int | None
) -> RequestError:
    return kind(message, param=param, code=code, retry_after=retry_after)


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type, out of range, or contradicts another one."""

    status = 400
    code = "invalid_value"


class Unsupported(RequestError):
    """A well-formed request for something that this model or executor cannot do; the message names the limit."""

    status = 400
    code = "unsupported"


class InvalidGrammar(RequestError):
    """The constraint does not compile; the message carries llguidance's own words."""

    status = 400
    code = "invalid_grammar"


class ContextLengthExceeded(RequestError):
    """The prompt, or prompt plus ``max_tokens``, does not fit the model's context."""

    status = 400
    code = "context_length_exceeded"


class Unauthenticated(RequestError):
    """An API key is needed, and none came, or one that is not known."""

    status = 401
    code = "invalid_api_key"


class RequestTooLarge(RequestError):
    """The body is larger than configured."""

    status = 413
    code = "request_too_large"


class ModelNotFound(RequestError):
    """No model of that name is served."""

    status = 404
    code = "model_not_found"


class QueueFull(RequestError):
    """As many requests as configured are waiting already."""

    status = 429
    code = "queue_full"


class ExecutorUnavailable(RequestError):
    """The model is loading, restarting after a crash, or shutting down. Also ends the requests a crash interrupted."""

    status = 503
    code = "engine_unavailable"


class GenerationFailed(RequestError):
    """This one request failed inside the executor; its neighbours go on."""

    status = 500
    code = "generation_failed"


class AnswerRejected(RequestError):
    """What the model answered is not valid against the schema, after as many attempts as were allowed.

    422, as the request is understood and cannot be fulfilled. It is no 5xx: clients repeat those by themselves, which
    would multiply attempts that have been made already, and a seeded or greedy request would fail the same way again.
    """

    status = 422
    code = "answer_rejected"
