"""How much one grammar may cost, as llguidance counts it."""

from __future__ import annotations

from llguidance import LLParserLimits

from guidance_core.config import GuidanceSettings
from guidance_core.grammar.compatibility import new_limits


def parser_limits(settings: GuidanceSettings) -> LLParserLimits:
    """Llguidance's limits: the settings' where they are set, ours or llguidance's own elsewhere."""
    return new_limits(
        max_items_in_row=settings.max_items_in_row,
        initial_lexer_fuel=settings.initial_lexer_fuel,
        step_lexer_fuel=settings.step_lexer_fuel,
        step_max_items=settings.step_max_items,
        max_lexer_states=settings.max_lexer_states,
        max_grammar_size=settings.max_grammar_size,
    )
