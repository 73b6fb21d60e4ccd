"""From a person's text to token ids and back: corpora, downloads, decoding, tokenizers."""
