"""
By layer and by head
====================

How much relevance stands at each layer of a network, what the operations between them absorb, and
which attention heads it passes.
"""

import relprop as rp
from relprop import render
from relprop.models import load_model, read_photo

loaded = load_model("efficientnet-lite0")
x = loaded.preprocess(read_photo("chelsea"))

# %%
# The flow from the output down to the photograph. ``layers`` names what is drawn, and
# ``audit="sites"`` keeps the books of every operation, so that what lies between two layers is
# drawn beside them. The marks are sums: they fall from layer to layer by just what the books say,
# here the biases that batch norms have left.

lrp = rp.LRP(loaded.model, rp.EpsilonPlusFlat())
e = lrp.explain(x, target=282, layers=["stem", "blocks.*[0-9]", "head"], audit="sites")
figure = render.flow(e)

# %%
# The books alone, of any explanation:

figure_books = render.audit_bars(e.audit)

# %%
# By attention head
# -----------------
# A head is a part of what the output projection of its layer is given. Relevance there, of a
# language model that says "Paris", summed over the tokens: a line a layer, a column a head.

loaded = rp.text.load("smollm2")
ids = loaded.tokenizer(
    "Germany borders France, whose capital is called", return_tensors="pt"
).input_ids
paris = loaded.tokenizer(" Paris").input_ids[0]
heads = loaded.model.config.num_attention_heads
e = rp.LRP(loaded.model, rp.AttnLRP()).explain(
    input_ids=ids,
    use_cache=False,
    target=(-1, paris),
    layers="model.layers.*.self_attn.o_proj:in",
)
found = {f"layer {name.split('.')[2]}": at for name, at in e.layers.items()}
figure_heads = render.heads(found, heads, title="Paris, by AttnLRP: relevance by head")

# %%
# Of one layer there is a line a head and a column a token: the one that gets what the head read.

words = [loaded.tokenizer.decode(i) for i in ids[0]]
figure_layer = render.heads(
    {"layer 10": found["layer 10"]}, heads, tokens=words, title="Paris, by AttnLRP: layer 10"
)
