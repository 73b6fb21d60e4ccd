"""Models on the network: an API that clients of OpenAI's completions know, on this machine alone by default."""
