"""A GPT-2 in numpy: from the ids of tokens to the scores of every token that may come next.

Shapes: T new tokens, P before them, C width of the model, V vocabulary, H heads of width D.
"""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float32])


def softmax(scores: np.ndarray) -> np.ndarray:
    """Turn scores into probabilities: positive numbers that add up to 1 in each row."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class Model:
    """The transformer; it remembers keys and values of the tokens that it has read, so each is computed once."""

    def __init__(self, config: dict, weights: dict[str, np.ndarray]) -> None:
        self.config, self.weights = config, {name.removeprefix("transformer."): w for name, w in weights.items()}
        self.context = config["n_positions"]  # the longest text that it can look at
        self.forget()

    def forget(self) -> None:
        """Begin a new text."""
        heads = self.config["n_head"]
        nothing = np.zeros((heads, 0, self.config["n_embd"] // heads), np.float32)
        self.length = 0
        self.keys, self.values = ([nothing] * self.config["n_layer"] for _ in range(2))

    def read(self, ids: list[int]) -> np.ndarray:
        """Read the next tokens, and return the scores (logits) of what may follow each of them, (T, V)."""
        positions = np.arange(self.length, self.length + len(ids))
        x = self.weights["wte.weight"][ids] + self.weights["wpe.weight"][positions]  # (T, C): what and where
        for layer in range(self.config["n_layer"]):
            x = x + self.attention(self.norm(x, f"h.{layer}.ln_1"), layer)
            x = x + self.mlp(self.norm(x, f"h.{layer}.ln_2"), layer)
        self.length += len(ids)
        head = self.weights.get("lm_head.weight", self.weights["wte.weight"])
        return self.norm(x, "ln_f") @ head.T

    def attention(self, x: np.ndarray, layer: int) -> np.ndarray:
        """Let each token collect values from itself and those before it, by how well their keys fit its query."""
        heads, T, P = self.config["n_head"], len(x), self.length
        parts = np.split(self.linear(x, f"h.{layer}.attn.c_attn"), 3, axis=-1)
        query, key, value = (part.reshape(T, heads, -1).swapaxes(0, 1) for part in parts)  # (H, T, D) each
        key = self.keys[layer] = np.concatenate((self.keys[layer], key), axis=1)  # (H, P + T, D)
        value = self.values[layer] = np.concatenate((self.values[layer], value), axis=1)
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])  # (H, T, P + T)
        scores[:, np.triu(np.ones((T, P + T), bool), k=P + 1)] = -np.inf  # no token sees a later one
        mixed = softmax(scores) @ value  # (H, T, D)
        return self.linear(mixed.swapaxes(0, 1).reshape(T, -1), f"h.{layer}.attn.c_proj")

    def mlp(self, x: np.ndarray, layer: int) -> np.ndarray:
        """Transform each token on its own: widen, let the positive pass (GELU), narrow."""
        x = self.linear(x, f"h.{layer}.mlp.c_fc")
        if self.config["activation_function"] == "gelu":
            x = 0.5 * x * (1 + erf(x / math.sqrt(2)))
        else:  # its approximation in GPT-2
            x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self.linear(x, f"h.{layer}.mlp.c_proj")

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """Multiply by a learned matrix, and add a learned vector."""
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """Bring each row to mean 0 and variance 1 (LayerNorm), then scale and shift it as learned."""
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["layer_norm_epsilon"])
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
