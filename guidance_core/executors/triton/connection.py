"""The gRPC channel to a Triton server: it connects again by itself, and its failures become ours."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from guidance_core.config import TritonSettings
from guidance_core.errors import ExecutorUnavailable, GenerationFailed, QueueFull, RequestError

_log = logging.getLogger(__name__)

_METADATA = (("triton_grpc_error", "true"),)
"""Makes Triton end a stream with a gRPC status where it would else send an error text without one."""

_FAILURES = (grpc.aio.AioRpcError, grpc.aio.UsageError)
"""What calls raise; the latter on a channel that was closed."""

_CALL_SECONDS = 5.0
"""How long anything but generating may take."""


class Responses(Protocol):
    """A stream of responses that can be given up."""

    def __aiter__(self) -> AsyncIterator[service_pb2.ModelStreamInferResponse]:
        """The responses; raises `grpc.aio.AioRpcError` where the stream fails."""

    def cancel(self) -> bool:
        """Give up; false where the stream has ended already."""


class Connection:
    """A channel that is shared by all requests.

    gRPC connects when it is needed, and again with growing delays when the connection is lost: calls made meanwhile
    fail with ``UNAVAILABLE``.
    """

    def __init__(self, settings: TritonSettings) -> None:
        """Prepare; nothing is sent.

        Raises:
            ExecutorUnavailable: a certificate cannot be read; the message names it.
        """
        self._settings = settings
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", int(1000 * settings.longest_backoff)),
        ]
        if settings.tls:
            self._channel = grpc.aio.secure_channel(settings.url, _credentials(settings), options=options)
        else:
            self._channel = grpc.aio.insecure_channel(settings.url, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def model_config(self, model: str) -> model_config_pb2.ModelConfig:
        """How the server has configured a model.

        Raises:
            ExecutorUnavailable: the server cannot be reached, or has no such model that is ready.
        """
        try:
            ready = await self._stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=_CALL_SECONDS)
            if ready.ready:
                request = service_pb2.ModelConfigRequest(name=model)
                return (await self._stub.ModelConfig(request, timeout=_CALL_SECONDS)).config
            index = await self._stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=_CALL_SECONDS)
        except _FAILURES as error:
            raise self._unreachable(_details(error)) from error
        known = {each.name: each.reason or each.state for each in index.models}
        if model in known:
            raise ExecutorUnavailable(f"The Triton server's model {model!r} is not ready: {known[model]}.")
        raise ExecutorUnavailable(
            f"The Triton server at {self._settings.url} has no model {model!r}, but "
            f"{', '.join(sorted(known)) or 'none at all'}: set triton.model."
        )

    async def check_ready(self, model: str) -> None:
        """Ask whether a model can be used now.

        Raises:
            ExecutorUnavailable: no, or the server cannot be reached.
        """
        try:
            ready = await self._stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=_CALL_SECONDS)
        except _FAILURES as error:
            raise self._unreachable(_details(error)) from error
        if not ready.ready:
            raise ExecutorUnavailable(f"The Triton server's model {model!r} is not ready.")

    def stream(self, request: service_pb2.ModelInferRequest) -> Responses:
        """Send a request; cancelling the stream cancels it on the server."""

        async def only() -> AsyncIterator[service_pb2.ModelInferRequest]:
            yield request

        found: Responses = self._stub.ModelStreamInfer(
            only(), metadata=_METADATA, timeout=self._settings.request_timeout
        )
        return found

    async def send(self, request: service_pb2.ModelInferRequest) -> None:
        """Send a request whose answer does not matter.

        Raises:
            ExecutorUnavailable: it did not arrive.
        """

        async def only() -> AsyncIterator[service_pb2.ModelInferRequest]:
            yield request

        try:
            async for _ in self._stub.ModelStreamInfer(only(), timeout=_CALL_SECONDS):
                pass
        except _FAILURES as error:
            raise self._unreachable(_details(error)) from error

    async def close(self) -> None:
        """End all calls."""
        await self._channel.close(None)

    def failure(self, details: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> RequestError:
        """The error of a request that failed.

        Args:
            details: what Triton says.
            code: of the stream; Triton also tells of failures, and of full queues, in responses, without one.
        """
        # Triton's "Exceeds maximum queue size", TensorRT-LLM's "Maximum queue size of … has been reached".
        if "maximum queue size" in details.lower():
            return QueueFull("As many requests as the Triton server takes are waiting there: try again.", retry_after=1)
        if code is grpc.StatusCode.UNAVAILABLE:
            return self._unreachable(details)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and self._settings.request_timeout is not None:
            return GenerationFailed(
                f"The answer was not complete within {self._settings.request_timeout:g} s (triton.request_timeout)."
            )
        _log.error("Triton failed a request (%s): %s", code.name, details)
        # What follows in further lines is a trace of the server's own code.
        first = details.partition("\n")[0] or f"it gave no reason but {code.name}"
        return GenerationFailed(f"The Triton server could not answer: {first}")

    def _unreachable(self, details: str) -> ExecutorUnavailable:
        return ExecutorUnavailable(
            f"The Triton server at {self._settings.url} cannot be reached: {details}. Try again.", retry_after=1
        )


def _details(error: grpc.aio.AioRpcError | grpc.aio.UsageError) -> str:
    return str((error.details() if isinstance(error, grpc.aio.AioRpcError) else None) or error)


def _credentials(settings: TritonSettings) -> grpc.ChannelCredentials:
    def read(path: str | None) -> bytes | None:
        if path is None:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise ExecutorUnavailable(f"{path}, a certificate of the triton settings: {error.strerror}.") from error

    return grpc.ssl_channel_credentials(
        root_certificates=read(settings.tls_root_certificates),
        private_key=read(settings.tls_client_key),
        certificate_chain=read(settings.tls_client_certificate),
    )
