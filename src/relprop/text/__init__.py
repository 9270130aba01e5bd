"""Language models: which words made it say that.

Bottom up: `pieces` (a vocabulary's pieces to words), `inputs` (texts to ids,
checked), `result` (what was found, and how it is looked at), `causal` (the next token, an answer), `similarity`
(two texts), `gguf` and `models` (models by name, from packages and files). transformers is imported only where a
model is loaded; what is explained is any model of it, as it is.
"""

from relprop.text.causal import explain_generation as explain_generation
from relprop.text.causal import explain_next as explain_next
from relprop.text.models import LoadedText as LoadedText
from relprop.text.models import load as load
from relprop.text.pieces import Token as Token
from relprop.text.pieces import read_tokens as read_tokens
from relprop.text.result import GenerationExplanation as GenerationExplanation
from relprop.text.result import SimilarityExplanation as SimilarityExplanation
from relprop.text.result import TextExplanation as TextExplanation
from relprop.text.similarity import explain_similarity as explain_similarity
