"""From what a client wrote to a validated llguidance grammar."""
