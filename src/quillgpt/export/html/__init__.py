"""A single page that runs a model offline, in any browser with WebAssembly SIMD."""
