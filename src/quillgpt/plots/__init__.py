"""The numbers of runs as pictures: figures for files, a chart for the terminal; no torch."""
