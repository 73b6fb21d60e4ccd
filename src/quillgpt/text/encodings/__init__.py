"""From bytes to letters: which encoding a file has, and what it is besides prose."""
