"""
Walks through a graph
=====================

A graph network reads its input along walks: from a member to a friend to a friend of that
friend. Relevance of walks says more than relevance of nodes: not only who mattered, but by whom
it came.
"""

import networkx as nx
import torch
from torch import nn

import relprop as rp
from relprop.concepts import walk_relevance

club = nx.karate_club_graph()
sides = torch.tensor([int(club.nodes[i]["club"] != "Mr. Hi") for i in club])
A = torch.tensor(nx.to_numpy_array(club, weight=None), dtype=torch.float32) + torch.eye(len(club))
scale = A.sum(1).rsqrt()
spread = scale[:, None] * A * scale


class GCN(nn.Module):
    """Two graph convolutions, each gathering before it maps, and a readout of every node."""

    def __init__(self, nodes, width=12):
        super().__init__()
        self.first, self.second = nn.Linear(nodes, width), nn.Linear(width, width)
        self.out = nn.Linear(width, 2)
        self.one, self.two = nn.ReLU(), nn.ReLU()

    def forward(self, x, spread):
        x = self.one(self.first(spread @ x))
        x = self.two(self.second(spread @ x))
        return self.out(x)


x = torch.eye(len(club))
known = torch.tensor([0, 33, 16, 15])  # Mr. Hi, the officer, and one friend of each
model = GCN(len(club))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
for _ in range(200):
    loss = nn.functional.cross_entropy(model(x, spread)[known], sides[known])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()
print(f"right: {(model(x, spread).argmax(1) == sides).sum()} of {len(club)}")

# %%
# Member 8 has friends on both sides. What is explained is how much more the network takes him
# for the officer's (33) than for Mr. Hi's (0). The adjacency is a constant: all relevance goes
# to the members.

node = 8
lrp = rp.LRP(model, [(rp.Name("first", "second", "out"), rp.Gamma(0.5, "standard"))])
walks = walk_relevance(
    lrp, x, spread, layers=["one", "two"], target=lambda y: y[node, 1] - y[node, 0]
)
edges = torch.tensor(list(club.edges)).T
figure = walks.picture(edges, count=12, title="why member 8 is taken for the officer's")

# %%
# The strongest walks are found without listing all of them, and they are the strongest: the
# search goes on with the beginning that could still become the best, by a bound that holds. Sums
# over walks are products of matrices.

for walk in walks.top_walks(5):
    print(" -> ".join(map(str, walk.nodes)), f"{walk.relevance:+.3f}")
print(f"all walks {walks.total:+.3f}, of {sum(1 for _ in walks.every())}")
print(f"walks among 8, 30, 32, 33 alone {walks.subgraph([8, 30, 32, 33]):+.3f}")
