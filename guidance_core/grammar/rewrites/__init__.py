"""Keywords that llguidance does not take, rewritten into those that it does; one file per family.

Each rewrite works on one schema, in place, before anything inside of it is rewritten. What it puts in the keyword's
place is either equivalent (`Ledger.rewrote`) or allows more (`Ledger.relaxed`), never less.
"""
