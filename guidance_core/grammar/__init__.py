"""From what a client wrote to a validated llguidance grammar.

A dialect makes a `constraint.Constraint` (``constraint.json_schema(…)``, ``constraint.regex(…)``, …) and awaits
`compiler.GrammarCompiler.compile`.
"""
