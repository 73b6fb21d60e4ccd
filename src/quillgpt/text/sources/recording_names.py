"""How files with speech are named."""

from __future__ import annotations

AUDIO = ".wav .flac .mp3 .ogg .oga .opus .m4a .m4b .aac .wma .aif .aiff .aifc .caf .au .amr .ac3 .ape .wv .mka .mp2"
VIDEO = ".mp4 .m4v .mkv .mov .avi .webm .mpg .mpeg .wmv .3gp .ogv"
RECORDING_SUFFIXES = (*AUDIO.split(), *VIDEO.split())
"""Endings of files in folders. A file that is given itself may end in anything, such as .ts, which is code too."""
