"""Where the parameters of a model go on several devices."""

from collections.abc import Callable

from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Layers whose outputs are split among the devices, and those whose inputs are, so that one sum per pair is exchanged.
_BY_OUTPUT = ("q", "k", "v", "qkv", "gate", "up", "fc1", "head", "linear_0", "linear_1")
_BY_INPUT = ("o", "out", "down", "fc2", "linear_2")


def tensor_sharding(mesh: Mesh, axis: str = "model") -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """The rule by which `load_model` splits the matrices of any model along one axis of a mesh.

    Of each pair of linear layers the first is split by outputs and the second by inputs; the embeddings are split by
    vocabulary; norms are copied to every device, as is a matrix whose size the axis does not divide. For the batch,
    put the inputs where `NamedSharding(mesh, PartitionSpec("batch"))` says, on another axis of the mesh.

    Args:
      mesh: the devices; its axes must be of type Auto.
      axis: the axis of the mesh along which matrices are split.

    Returns:
      A function from a leaf's dotted path and shape to its sharding.

    Raises:
      ValueError: if the mesh has no such axis.
    """
    if axis not in mesh.shape:
        raise ValueError(f"axis = {axis!r} is not one of the mesh's, {', '.join(map(repr, mesh.shape))}")

    def place(leaf: str, shape: tuple[int, ...]) -> NamedSharding:
        *_, layer, kind = ("", *leaf.split("."))
        split = None
        if kind in ("kernel", "bias") and layer in _BY_OUTPUT:
            split = len(shape) - 1
        elif kind == "kernel" and layer in _BY_INPUT:
            split = len(shape) - 2
        elif kind == "embedding":
            split = 0
        if split is None or shape[split] % mesh.shape[axis]:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec(*[None] * split, axis))

    return place
