"""Dialects: what clients send → generation requests, and answers → what clients read. Each only translates."""
