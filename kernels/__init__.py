"""What touches every logit: fast paths with a plain twin to check them against."""
