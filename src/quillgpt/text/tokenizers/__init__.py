"""From text to token ids and back: one protocol, and one file for each kind of tokenizer."""
