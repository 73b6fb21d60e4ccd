"""Speed and memory, measured side by side: Quill and its peers in turn, on one machine."""
