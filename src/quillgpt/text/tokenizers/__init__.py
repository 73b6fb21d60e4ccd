"""From text to token ids and back: one protocol, a file for each kind."""
