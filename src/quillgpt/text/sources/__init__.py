"""Where texts come from: files and folders, downloads, books, the hub."""
