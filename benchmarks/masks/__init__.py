"""What grammars cost: compiling them and filling masks, ours beside other engines, over a corpus of JSON schemas."""
