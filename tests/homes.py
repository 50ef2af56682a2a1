"""Folders for BentoML (`BENTOML_HOME`).

One for each service that runs: where a service starts, BentoML empties the home's metrics, which may be another one's.
"""

from __future__ import annotations

from pathlib import Path


def make_home(home: Path, model: Path) -> Path:
    """Make a home whose store has one model; returns it.

    Args:
        home: does not exist yet.
        model: the model's folder in another store, which is linked to.
    """
    (home / "models").mkdir(parents=True)
    (home / "models" / model.parent.name).symlink_to(model.parent)
    return home
