"""Speed, measured side by side: Quill and its peers in turn, on one machine, in one process."""
