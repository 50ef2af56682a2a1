"""Text-generation-inference's API under ``/tgi``, to the letter of its router (v3, ``router/src``).

`bodies` says what a request may contain, `requests` makes generation requests of it, `answers` writes tokens, details
and events, `errors` failures; `endpoints` puts them together.
"""

from guidance_core.api.tgi.endpoints import ENDPOINTS

__all__ = ["ENDPOINTS"]
