"""The arguments of the kernels in ``mask_logits.cu``, field for field."""

from __future__ import annotations

import ctypes

import torch

LISTED_ROWS = 64
"""Rows whose addresses travel by value; ``LISTED_ROWS`` in the source."""

LOGITS = {torch.float32: "Float32", torch.float16: "Float16", torch.bfloat16: "BFloat16"}
"""The source's name of each type of logits."""


class RowsArgument(ctypes.Structure):
    """``Rows`` in the source."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("stride", ctypes.c_longlong),
        ("indices", ctypes.c_void_p),
        ("addresses", ctypes.c_void_p),
        ("is_listed", ctypes.c_int),
        ("listed", ctypes.c_longlong * LISTED_ROWS),
    )


class Masking(ctypes.Structure):
    """``Masking`` in the source."""

    _fields_ = (
        ("rows", RowsArgument),
        ("mask", ctypes.c_void_p),
        ("mask_stride", ctypes.c_longlong),
        ("words", ctypes.c_int),
        ("vocabulary", ctypes.c_int),
        ("count", ctypes.c_int),
    )


class Fusion(ctypes.Structure):
    """``Fusion`` in the source."""

    _fields_ = (
        ("temperature", ctypes.c_void_p),
        ("min_p", ctypes.c_void_p),
        ("argmax", ctypes.c_void_p),
        ("allowed_mass", ctypes.c_void_p),
        ("parts", ctypes.c_void_p),
        ("launches", ctypes.c_void_p),
        ("splits", ctypes.c_int),
        ("units", ctypes.c_int),
    )


PART_WORDS = 5
"""Words of 64 bits by which a block tells its part; ``PART_WORDS`` in the source."""
