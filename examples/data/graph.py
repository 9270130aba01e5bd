"""
Graphs
======

Which neighbours made the node what it is? Zachary's karate club: 34 members, who after a quarrel
followed either Mr. Hi or the officer. A graph convolution learns from four of them which side
the others took.
"""

import networkx as nx
import torch
from matplotlib.figure import Figure
from torch import nn

import relprop as rp

club = nx.karate_club_graph()
sides = torch.tensor([int(club.nodes[i]["club"] != "Mr. Hi") for i in club])
A = torch.tensor(nx.to_numpy_array(club, weight=None), dtype=torch.float32) + torch.eye(len(club))
scale = A.sum(1).rsqrt()


class GCN(nn.Module):
    """Two graph convolutions in plain torch: H' = relu(D^-1/2 (A + 1) D^-1/2 H W)."""

    def __init__(self, features, hidden=16):
        super().__init__()
        self.register_buffer("spread", scale[:, None] * A * scale)
        self.first, self.second = (
            nn.Linear(features, hidden, bias=False),
            nn.Linear(hidden, 2, bias=False),
        )

    def forward(self, x):
        return self.spread @ self.second(torch.relu(self.spread @ self.first(x)))


# %%
# Every member is described by who they are, a one at their own place and zeros elsewhere; so all
# that can be learned is who stands with whom.

x = torch.eye(len(club))
known = torch.tensor([0, 33, 16, 15])  # Mr. Hi, the officer, and one friend of each
model = GCN(len(club))
optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-3)
for _ in range(200):
    loss = nn.functional.cross_entropy(model(x)[known], sides[known])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()
print(f"right: {(model(x).argmax(1) == sides).sum()} of {len(club)}")

# %%
# One member
# ----------
# The output has a row for each node, so a function says what is explained: how much more member
# 8 is of one side than of the other. To relprop the product with the adjacency is a linear map
# like the dense layers. Relevance of a node is that of its features, summed.


def explain(node, side):
    return rp.LRP(model, rp.Gamma(0.25)).explain(
        x, target=lambda y: y[node, side] - y[node, 1 - side]
    )


guess = int(model(x)[8].argmax())
print(f"member 8 is said to follow {('Mr. Hi', 'the officer')[guess]}")
print(f"member 8 followed {club.nodes[8]['club']}")
e = explain(8, guess)
relevance = e.relevance.sum(1)
strongest = relevance.abs().topk(6).indices.tolist()
print(e.audit)
print("\n".join(f"member {i:2d}  {relevance[i]:+.3f}" for i in strongest))

# %%
# On the graph
# ------------
# Red speaks for the side the model put the member on, blue for the other. Who is more than two
# steps away cannot matter to two convolutions, and has no relevance.

place = nx.spring_layout(club, seed=4, k=0.35)
figure = Figure(figsize=(10, 4.4), layout="constrained")
for axes, node in zip(figure.subplots(1, 2), (8, 13)):
    side = int(model(x)[node].argmax())
    r = explain(node, side).relevance.sum(1)
    limit = float(r.abs().max())
    nx.draw_networkx_edges(club, place, ax=axes, edge_color="#bbbbbb", width=0.8)
    style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "edgecolors": "#777777"}
    dots = nx.draw_networkx_nodes(club, place, ax=axes, node_color=r, node_size=260, **style)
    nx.draw_networkx_nodes(club, place, [node], ax=axes, node_size=420, node_color="none",
                           edgecolors="black", linewidths=2)  # fmt: skip
    nx.draw_networkx_labels(club, place, ax=axes, font_size=7)
    axes.set_title(f"member {node} on the side of {('Mr. Hi', 'the officer')[side]}", fontsize=10)
    axes.set_axis_off()
    figure.colorbar(dots, ax=axes, shrink=0.7, label="relevance")

# %%
# Relevance of a node says where it came from, not along which edges it went.
