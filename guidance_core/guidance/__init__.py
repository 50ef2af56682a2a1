"""Guidance of a running batch: which tokens each sequence may take next."""
