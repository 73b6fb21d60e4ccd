"""Public tasks through lm-eval: accuracy on questions, perplexity of texts, generated answers.

The other modules of this room import lm-eval. So they are imported only after `import_lm_eval`.
"""
