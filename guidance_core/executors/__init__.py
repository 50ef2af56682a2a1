"""What runs models: a contract (`base`) and its implementations beside it."""
