"""The folder of a run: who may write there, and which checkpoints are kept."""
