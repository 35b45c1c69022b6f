import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax.scoring._packing import pack_targets

TARGETS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7).map(tuple), min_size=1, max_size=40, unique=True)


def walk(pack, path):
    """The tokens along a path of edges, and whether each edge starts where the one before it leads."""
    tokens, node = [], 0
    for edge in path:
        parent = pack.edge_parents[edge]
        if parent and (tokens[-1] != pack.tokens[parent - 1] or pack.depths[parent - 1] != len(tokens) - 1):
            return None
        if parent and node and not pack.ancestors[parent - 1, node - 1]:
            return None
        node = parent
        tokens.append(int(pack.edge_tokens[edge]))
    return tuple(tokens)


@given(targets=TARGETS, max_nodes=st.integers(1, 20), max_edges=st.integers(1, 30))
def test_every_target_is_a_path_of_one_trie(targets, max_nodes, max_edges):
    packs = pack_targets(targets, max_nodes=max_nodes, max_edges=max_edges)
    found = [index for pack in packs for index in pack.targets]
    assert sorted(found) == list(range(len(targets)))
    for pack in packs:
        assert [walk(pack, path) for path in pack.paths] == [targets[index] for index in pack.targets]
        if len(pack.targets) > 1:
            assert len(pack.tokens) <= max_nodes
            assert len(pack.edge_tokens) <= max_edges


@given(targets=TARGETS)
def test_a_trie_repeats_nothing(targets):
    (pack,) = pack_targets(targets, max_nodes=10**6, max_edges=10**6)
    assert len(pack.tokens) == len({target[:k] for target in targets for k in range(1, len(target))})
    assert len(pack.edge_tokens) == len({target[:k] for target in targets for k in range(1, len(target) + 1)})


@given(targets=TARGETS, max_nodes=st.integers(1, 20))
def test_a_node_sees_itself_and_the_tokens_before_it(targets, max_nodes):
    for pack in pack_targets(targets, max_nodes=max_nodes, max_edges=100):
        assert (pack.ancestors.sum(axis=1) == pack.depths + 1).all()
        assert not np.triu(pack.ancestors, 1).any()  # parents come first
        seen = {
            tuple(pack.tokens[row][np.argsort(pack.depths[row])].tolist())
            for row in (np.flatnonzero(row) for row in pack.ancestors)
        }
        beginnings = {targets[i][:k] for i in pack.targets for k in range(1, len(targets[i]))}
        assert seen == beginnings


@pytest.mark.parametrize("target", [(5,), (5, 6, 7)])
def test_a_single_target(target):
    (pack,) = pack_targets([target], max_nodes=1, max_edges=1)
    assert pack.tokens.tolist() == list(target[:-1])
    assert pack.edge_tokens.tolist() == list(target)
    assert pack.edge_parents.tolist() == list(range(len(target)))
