"""
Presets side by side
====================

The same network, the same photographs, the same class, ten presets. Each map has its own scale.
Red speaks for the class, blue against it; :doc:`/which-preset` says when to take which.
"""

import relprop as rp
from relprop import render
from relprop.models import class_names, load_model, read_photo

loaded = load_model("efficientnet-lite0")
low, high = loaded.preprocess.low, loaded.preprocess.high
presets = [
    rp.EpsilonPlus(),
    rp.EpsilonPlusFlat(),
    rp.EpsilonGammaBox(low, high),
    rp.EpsilonAlpha2Beta1(),
    rp.EpsilonAlpha2Beta1Flat(),
    rp.DeepTaylor(low, high),
    rp.ExcitationBackprop(),
    rp.UniformEpsilon(),
    rp.GuidedBackprop(),
    rp.Deconvnet(),
]


def compare(name):
    photo = read_photo(name)
    x, view = loaded.preprocess(photo), loaded.preprocess.view(photo)
    target = int(loaded.model(x).argmax())
    maps = [
        rp.LRP(loaded.model, preset).explain(x, target=target).relevance for preset in presets
    ]
    titles = [type(preset).__name__ for preset in presets]
    return render.grid(maps, titles, photo=view, photo_title=class_names()[target], columns=3)


# %%
# A cat
# -----

cat = compare("chelsea")

# %%
# A cup
# -----

cup = compare("coffee")

# %%
# What the books say
# ------------------
# How much of the score reaches the photograph, and where the rest stays. The two gradient
# methods have no books.

x = loaded.preprocess(read_photo("coffee"))
print(f"{'':24}{'input':>8}{'biases':>9}{'excess':>9}")
for preset in presets[:8]:
    audit = rp.LRP(loaded.model, preset).explain(x, target=967).audit
    shares = [
        part / audit.seed for part in (sum(audit.inputs.values()), audit.bias, audit.excess)
    ]
    print(f"{type(preset).__name__:24}{shares[0]:8.1%}{shares[1]:9.1%}{shares[2]:9.1%}")
