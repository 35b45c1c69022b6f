"""Which constants may be combined: one space, the right conditioning, and no distance beyond the diameter."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from gmijax.bounds._result import Kind, check_numbers
from gmijax.sensitivity import LipschitzConstant

UNCERTIFIED = {
    "searched": "L is searched, a lower estimate of the slope",
    "sampled": "L is sampled, a percentile or mean of gradient norms",
}
WIDER = {"none": 0, "c": 1, "(c, y)": 2}  # mixing over what is no longer given never raises a distance


@runtime_checkable
class Distance(Protocol):
    """What bounds read of a transport distance.

    Attributes:
      value: in the unit of the representations.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the representations' space (model, hook point, pooling, width).
    """

    @property
    def value(self) -> Any:
        """The distance."""
        ...

    @property
    def given(self) -> str:
        """The conditioning."""
        ...

    @property
    def space(self) -> str:
        """The space."""
        ...


def check_distance(name: str, distance: Distance, given: str, lipschitz: LipschitzConstant) -> float:
    """The value of a distance in the slope's space, conditioned as the theorem asks."""
    _, value = check_numbers(**{"lipschitz": lipschitz.value, name: distance.value})
    if distance.given != given:
        raise ValueError(
            f"{name} is a distance given {distance.given!r} and the theorem needs one given {given!r}; "
            "neither may be put in the other's place"
        )
    if distance.space != lipschitz.space:
        raise ValueError(
            f"{name} was taken in {distance.space!r} and the slope in {lipschitz.space!r}: "
            "a distance and a slope of two spaces do not combine"
        )
    return value


def inconsistencies(
    lipschitz: LipschitzConstant | None = None, diameter: float | None = None, **distances: Distance
) -> tuple[str, ...]:
    """What cannot be true, or cannot be combined, in a set of reported constants.

    A transport distance in a set of diameter D is at most D; distances given less are at most distances given more;
    and a slope and a distance of two spaces have no product (THEORY.md, section 4).

    Args:
      lipschitz: the slope.
      diameter: D of a set that holds both supports.
      **distances: transport distances of one order, by name.

    Returns:
      One sentence a problem; empty where nothing contradicts.

    Raises:
      ValueError: for numbers that are negative or not finite.
    """
    check_numbers(**{name: distance.value for name, distance in distances.items()})
    problems = [] if diameter is None else _beyond(diameter, distances)
    for name, distance in distances.items():
        if lipschitz is not None and distance.space != lipschitz.space:
            problems.append(f"L is taken in {lipschitz.space!r} and {name} in {distance.space!r}: two spaces")
    for name, distance in distances.items():
        for other, wider in distances.items():
            larger = float(distance.value) > float(wider.value) * (1 + 1e-9)
            if WIDER[distance.given] < WIDER[wider.given] and distance.space == wider.space and larger:
                problems.append(
                    f"{name} given {distance.given} = {float(distance.value):g} exceeds {other} given {wider.given} = "
                    f"{float(wider.value):g}, impossible between the laws themselves"
                )
    return tuple(problems)


def _beyond(diameter: float, distances: Mapping[str, Distance]) -> list[str]:
    check_numbers(diameter=diameter)
    return [
        f"{name} = {float(distance.value):g} exceeds the diameter D = {diameter:g}, impossible in one space"
        for name, distance in distances.items()
        if float(distance.value) > diameter * (1 + 1e-9)
    ]


def demotions(
    lipschitz: LipschitzConstant, diameter: float | None = None, **distances: Distance
) -> tuple[Kind, tuple[str, ...]]:
    """The kind of a figure made of these constants, and every reason why it is only an index."""
    problems = [UNCERTIFIED[lipschitz.kind]] if lipschitz.kind in UNCERTIFIED else []
    problems += [] if lipschitz.space else ["no space is named, so nothing shows that L and W belong together"]
    problems += [
        f"{name} is an estimate from samples"
        for name, distance in distances.items()
        if getattr(distance, "standard_error", None) is not None
    ]
    problems += [] if diameter is None else _beyond(diameter, distances)
    return ("index" if problems else "bound"), tuple(problems)
