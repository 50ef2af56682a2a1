"""`POST /v1/responses`: OpenAI's newer dialect, without storage.

A request becomes the chat request that asks for the same (`translation`), and the parts of its message become output
items and events (`output`).
"""
