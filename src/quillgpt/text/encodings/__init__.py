"""From bytes to characters: detecting the encoding of a text file, and decoding it."""
