"""Language models: which words made it say that.

Bottom up: `pieces` (a vocabulary's pieces to words), `inputs` (texts to ids,
checked), `result` (what was found, and how it is looked at), `causal` (the next token, an answer), `similarity`
(two texts), `gguf` and `models` (models by name, from packages and files). transformers is imported only where a
model is loaded; what is explained is any model of it, as it is.
"""

from relprop.text.causal import explain_generation, explain_next
from relprop.text.models import LoadedText, load
from relprop.text.pieces import Token, read_tokens
from relprop.text.result import GenerationExplanation, SimilarityExplanation, TextExplanation
from relprop.text.similarity import explain_similarity

__all__ = [
    "GenerationExplanation",
    "LoadedText",
    "SimilarityExplanation",
    "TextExplanation",
    "Token",
    "explain_generation",
    "explain_next",
    "explain_similarity",
    "load",
    "read_tokens",
]
