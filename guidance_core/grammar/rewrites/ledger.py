"""What was done to a schema, and what is left to the check of whole answers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """Notes of one translation.

    Attributes:
        rewritten: a sentence for each part that was replaced by an equivalent.
        left_to_check: a sentence for each part that is not, or not wholly, enforced.
    """

    rewritten: list[str] = field(default_factory=list)
    left_to_check: list[str] = field(default_factory=list)

    def rewrote(self, path: str, keyword: str, how: str) -> None:
        """An equivalent was found.

        Args:
            path: of the schema, as a JSON pointer.
            keyword: what was replaced.
            how: what is enforced instead.
        """
        self._note(self.rewritten, f"'{keyword}' at #{path or '/'}: {how}")

    def relaxed(self, path: str, keyword: str, why: str) -> None:
        """The grammar allows more than the keyword does.

        Args:
            path: of the schema, as a JSON pointer.
            keyword: what is not wholly enforced.
            why: what stands in the way.
        """
        self._note(self.left_to_check, f"'{keyword}' at #{path or '/'} is checked on the whole answer: {why}")

    @staticmethod
    def _note(notes: list[str], note: str) -> None:
        if note not in notes:
            notes.append(note)
