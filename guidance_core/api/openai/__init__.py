"""OpenAI's chat completions and completions, to the letter of https://platform.openai.com/docs/api-reference.

`bodies` says what a request may contain, `constraints` what its answer must be; `chat` and `completions` translate both
ways; `errors` writes failures; `schemas` describes answers for the OpenAPI document.
"""
