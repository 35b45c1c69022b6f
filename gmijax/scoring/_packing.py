"""Packing many targets into few token tries, so that what they share is run once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Pack(NamedTuple):
    """A token trie in arrays.

    A node is a target token that has a next one, and must be run through the model. An edge leads from a node,
    or from the prompt, to a token that may follow it; a target is a path of edges.

    Attributes:
      tokens: shape (nodes,), the token of each node; parents come before their children.
      depths: shape (nodes,), how many target tokens come before.
      ancestors: shape (nodes, nodes), true at (i, j) where j is i or an ancestor of i.
      edge_parents: shape (edges,), where each edge starts: 0 for the prompt, 1 + i for node i.
      edge_tokens: shape (edges,), where each edge leads.
      targets: the indices of the targets that are paths of this trie.
      paths: for each of them the indices of its edges.
    """

    tokens: np.ndarray
    depths: np.ndarray
    ancestors: np.ndarray
    edge_parents: np.ndarray
    edge_tokens: np.ndarray
    targets: list[int]
    paths: list[list[int]]


def pack_targets(targets: Sequence[Sequence[int]], *, max_nodes: int, max_edges: int) -> list[Pack]:
    """Packs targets into tries of limited size.

    Targets are taken in lexicographic order, in which those that share most are neighbours, and a new trie is
    begun when one does not fit. A trie holds at least one target, however long.

    Args:
      targets: distinct, non-empty token sequences.
      max_nodes: most nodes in a trie; each attends to all others, so this bounds the attention wasted on
        tokens of other targets.
      max_edges: most edges in a trie.

    Returns:
      The tries; each target is a path of exactly one.
    """
    tries = [_Trie()]
    for index in sorted(range(len(targets)), key=lambda i: tuple(targets[i])):
        target = targets[index]
        nodes, edges = tries[-1].growth(target)
        fits = len(tries[-1].tokens) + nodes <= max_nodes and len(tries[-1].edge_tokens) + edges <= max_edges
        if tries[-1].targets and not fits:
            tries.append(_Trie())
        tries[-1].add(index, target)
    return [trie.pack() for trie in tries]


class _Trie:
    """A trie that grows by targets in lexicographic order; only the path of the last one is at hand."""

    def __init__(self):
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.parents: list[int] = []  # as edge_parents: 0 is the prompt
        self.edge_parents: list[int] = []
        self.edge_tokens: list[int] = []
        self.targets: list[int] = []
        self.paths: list[list[int]] = []
        self.last: Sequence[int] = ()
        self.last_nodes: list[int] = []  # 1 + index, along the last path

    def _shared(self, target: Sequence[int]) -> tuple[int, int]:
        """How many nodes and edges of the last path are a target's too."""
        edges = 0
        while edges < min(len(target), len(self.last)) and target[edges] == self.last[edges]:
            edges += 1
        return min(edges, len(self.last_nodes), len(target) - 1), edges

    def growth(self, target: Sequence[int]) -> tuple[int, int]:
        """How many nodes and edges a target would add."""
        nodes, edges = self._shared(target)
        return len(target) - 1 - nodes, len(target) - edges

    def add(self, index: int, target: Sequence[int]) -> None:
        shared_nodes, shared_edges = self._shared(target)
        path = self.paths[-1][:shared_edges] if self.paths else []
        nodes = self.last_nodes[:shared_nodes]
        for depth in range(shared_nodes, len(target) - 1):
            self.parents.append(nodes[-1] if nodes else 0)
            self.tokens.append(target[depth])
            self.depths.append(depth)
            nodes.append(len(self.tokens))
        for depth in range(shared_edges, len(target)):
            path.append(len(self.edge_tokens))
            self.edge_parents.append(nodes[depth - 1] if depth else 0)
            self.edge_tokens.append(target[depth])
        self.targets.append(index)
        self.paths.append(path)
        self.last, self.last_nodes = target, nodes

    def pack(self) -> Pack:
        ancestors = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent:
                ancestors[node] |= ancestors[parent - 1]
        arrays = (
            np.asarray(values, np.int32) for values in (self.tokens, self.depths, self.edge_parents, self.edge_tokens)
        )
        tokens, depths, edge_parents, edge_tokens = arrays
        return Pack(tokens, depths, ancestors, edge_parents, edge_tokens, self.targets, self.paths)
