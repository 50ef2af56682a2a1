"""The embedded executor: a Hugging Face model in a process of its own."""
