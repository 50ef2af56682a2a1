"""llgtrt's endpoint for the ``guidance`` library, ``/v1/run``, with its events.

`bodies` says what a request may contain, `run` makes a generation request of it and writes its events, `errors`
failures. The library's own classes for servers use OpenAI's dialect.
"""

from guidance_core.api.guidance.endpoints import ENDPOINTS

__all__ = ["ENDPOINTS"]
