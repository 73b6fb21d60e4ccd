"""A Qwen3 in numpy: from the ids of tokens to the scores of every token that may come next.

Shapes: T new tokens, P before them, C width of the model, V vocabulary, H heads of width D, G such for keys and values.
"""

import math

import numpy as np


def softmax(scores: np.ndarray) -> np.ndarray:
    """Turn scores into probabilities: positive numbers that add up to 1 in each row."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class Model:
    """The transformer; it remembers keys and values of the tokens that it has read, so each is computed once."""

    def __init__(self, config: dict, weights: dict[str, np.ndarray]) -> None:
        self.config, self.weights = config, {name.removeprefix("model."): w for name, w in weights.items()}
        self.context = config["max_position_embeddings"]  # the longest text that it can look at
        self.forget()

    def forget(self) -> None:
        """Begin a new text."""
        nothing = np.zeros((self.config["num_key_value_heads"], 0, self.config["head_dim"]), np.float32)
        self.length = 0
        self.keys, self.values = ([nothing] * self.config["num_hidden_layers"] for _ in range(2))

    def read(self, ids: list[int]) -> np.ndarray:
        """Read the next tokens, and return the scores (logits) of what may follow each of them, (T, V)."""
        x = self.weights["embed_tokens.weight"][ids]  # (T, C)
        for layer in range(self.config["num_hidden_layers"]):
            x = x + self.attention(self.norm(x, f"layers.{layer}.input_layernorm"), layer)
            x = x + self.mlp(self.norm(x, f"layers.{layer}.post_attention_layernorm"), layer)
        self.length += len(ids)
        head = self.weights.get("lm_head.weight", self.weights["embed_tokens.weight"])
        return self.norm(x, "norm") @ head.T

    def attention(self, x: np.ndarray, layer: int) -> np.ndarray:
        """Let each token collect values from itself and those before it, by how well their keys fit its query."""
        T, P, name = len(x), self.length, f"layers.{layer}.self_attn"
        parts = (self.linear(x, f"{name}.{part}_proj").reshape(T, -1, self.config["head_dim"]) for part in "qkv")
        query, key, value = (part.swapaxes(0, 1) for part in parts)  # (H, T, D) and twice (G, T, D)
        query, key = self.rotate(self.norm(query, f"{name}.q_norm")), self.rotate(self.norm(key, f"{name}.k_norm"))
        key = self.keys[layer] = np.concatenate((self.keys[layer], key), axis=1)  # (G, P + T, D)
        value = self.values[layer] = np.concatenate((self.values[layer], value), axis=1)
        key, value = (np.repeat(part, len(query) // len(part), axis=0) for part in (key, value))  # (H, P + T, D)
        scores = query @ key.swapaxes(1, 2) / math.sqrt(self.config["head_dim"])  # (H, T, P + T)
        scores[:, np.triu(np.ones((T, P + T), bool), k=P + 1)] = -np.inf  # no token sees a later one
        mixed = softmax(scores) @ value  # (H, T, D)
        return self.linear(mixed.swapaxes(0, 1).reshape(T, -1), f"{name}.o_proj")

    def rotate(self, x: np.ndarray) -> np.ndarray:
        """Turn pairs of numbers by angles that grow with the position, so that products depend on distances."""
        speeds = self.config["rope_theta"] ** -(np.arange(0, x.shape[2], 2, dtype=np.float32) / x.shape[2])
        angles = np.arange(self.length, self.length + x.shape[1], dtype=np.float32)[:, None] * speeds  # (T, D / 2)
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)

    def mlp(self, x: np.ndarray, layer: int) -> np.ndarray:
        """Transform each token on its own: widen, let one half gate the other (SwiGLU), narrow."""
        gate, up = (self.linear(x, f"layers.{layer}.mlp.{part}_proj") for part in ("gate", "up"))
        return self.linear(gate / (1 + np.exp(-gate)) * up, f"layers.{layer}.mlp.down_proj")

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """Multiply by a learned matrix."""
        return x @ self.weights[f"{name}.weight"].T

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """Bring each row to mean square 1 (RMSNorm), then scale it as learned."""
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x * self.weights[f"{name}.weight"]
