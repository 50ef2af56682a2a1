"""Hours of mixed traffic against the real service, with every answer checked: see `__main__`."""
