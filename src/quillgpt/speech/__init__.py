"""Recordings in, a voice out: speech to text, and text to speech."""
