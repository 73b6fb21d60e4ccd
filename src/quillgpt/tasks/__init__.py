"""Public tasks through lm-eval: accuracy on questions, perplexity of texts, generated answers.

The other modules of this room import lm-eval, which may be missing. `import_lm_eval` in `libraries.py` says so.
"""
