"""What `eval.also` measures beside the main metric, on the same features: each number under an identity of its own."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablate_core.fid import MetricError
from ablate_core.fid.frechet import Moments, RunningMoments, frechet_distance, frechet_from_features
from ablate_core.fid.kernel import SUBSETS, kernel_distance, seeded_subsets, subset_size
from ablate_core.fid.manifolds import density_coverage, precision_recall
from ablate_core.fid.sample_curve import LEAST, TOO_FEW, extrapolate, extrapolates

Definition = dict[str, Any]
Features = NDArray[np.float32]

MOST_NEIGHBOURS = 10_000
"""Features on a side whose neighbours are sought, and of the data that are kept: the cost grows with their square."""

SUBSET_SEED = 0


class Reading(NamedTuple):
    """One number. `value` is None where it does not exist, with the ``reason`` in `extra`."""

    definition: Definition
    value: float | None
    extra: dict[str, Any]


class ReferenceFeatures(NamedTuple):
    """Features of the data, (M, D), and what they are."""

    features: Features
    definition: Definition


class Beside(abc.ABC):
    """Numbers from all features of a draw."""

    def __init__(self, definitions: Sequence[Definition]) -> None:
        self.definitions = tuple(definitions)

    @abc.abstractmethod
    def numbers(self, features: Features) -> list[tuple[float | None, dict[str, Any]]]:
        """One (value, extra) for each of `definitions`. Raises MetricError where there are none."""

    def readings(self, features: Features) -> list[Reading]:
        """The numbers under their definitions; what fails is None with its reason."""
        try:
            found = self.numbers(features)
        except MetricError as error:
            return self.without(str(error))
        return [Reading(d, value, extra) for d, (value, extra) in zip(self.definitions, found, strict=True)]

    def without(self, reason: str) -> list[Reading]:
        """Readings that do not exist."""
        return [Reading(definition, None, {"reason": reason}) for definition in self.definitions]


class KernelDistance(Beside):
    """KID, or the same on other features."""

    def __init__(self, common: Definition, name: str, reference: ReferenceFeatures) -> None:
        self.reference = reference.features
        size = subset_size(common["samples"], len(self.reference))
        definition = common | {
            "name": name,
            "estimator": "unbiased MMD^2, kernel (x.y / D + 1)^3, mean over subsets without replacement, float64",
            "subsets": SUBSETS,
            "subset_size": size,
            "subset_seed": SUBSET_SEED,
            "reference": reference.definition,
        }
        super().__init__([definition])

    def numbers(self, features: Features) -> list[tuple[float | None, dict[str, Any]]]:
        subsets = seeded_subsets(len(features), len(self.reference), SUBSET_SEED)
        value, error = kernel_distance(features, self.reference, subsets)
        return [(value, {"standard_error": error})]


class Neighbours(Beside):
    """A pair of numbers about neighbours: of the first `MOST_NEIGHBOURS` samples, at most."""

    def __init__(
        self,
        common: Definition,
        names: tuple[str, str],
        what: str,
        k: int,
        pair: Callable[[Features, Features, int], tuple[float, float]],
        reference: ReferenceFeatures,
    ) -> None:
        self.k, self.pair, self.reference = k, pair, reference.features
        self.count = min(common["samples"], MOST_NEIGHBOURS)
        changed = {"samples": self.count, "k": k, "higher_is_better": True, "reference": reference.definition}
        super().__init__([common | changed | {"name": name, "estimator": what} for name in names])

    def numbers(self, features: Features) -> list[tuple[float | None, dict[str, Any]]]:
        return [(value, {}) for value in self.pair(features[: self.count], self.reference, self.k)]


class CurveValues:
    """The Frechet distance of the first n samples, for every n of `sizes`; kept for the next who asks."""

    def __init__(self, sizes: Sequence[int], reference: Moments) -> None:
        self.sizes, self.reference = tuple(sorted(set(sizes))), reference
        self._of: Features | None = None
        self._values: dict[int, float] = {}

    def of(self, features: Features) -> dict[int, float]:
        """Size -> value."""
        if self._of is not features:
            running, seen, values = RunningMoments(features.shape[1]), 0, dict[int, float]()
            for n in self.sizes:
                running.update(features[seen:n])
                seen = n
                if n > features.shape[1]:
                    values[n] = frechet_distance(running.moments(), self.reference)
                else:  # below full rank the features themselves give the exact value
                    values[n] = frechet_from_features(features[:n], self.reference)
            self._of, self._values = features, values
        return self._values


class Curve(Beside):
    """FID_n under the definitions that `eval.samples: n` would give; that of all samples is the main metric itself."""

    def __init__(self, main: Definition, values: CurveValues) -> None:
        self.values = values
        self.shown = [n for n in values.sizes if n != main["samples"]]
        super().__init__([main | {"samples": n} for n in self.shown])

    def numbers(self, features: Features) -> list[tuple[float | None, dict[str, Any]]]:
        values = self.values.of(features)
        return [(values[n], {}) for n in self.shown]


class Limit(Beside):
    """Where the curve ends for infinitely many samples.

    Raises:
        MetricError: there are too few sizes for a line.
    """

    def __init__(self, main: Definition, name: str, values: CurveValues) -> None:
        if not extrapolates(values.sizes):
            given = ", ".join(map(str, values.sizes))
            raise MetricError(f"eval.also infinity: {TOO_FEW}, got {given}; raise eval.samples or leave infinity out")
        self.values = values
        what = f"{main['estimator']}; limit of its line in 1 / samples, weighted by samples, over the first samples"
        used = [n for n in values.sizes if n >= LEAST]
        super().__init__([main | {"name": name, "estimator": what, "sizes": used}])

    def numbers(self, features: Features) -> list[tuple[float | None, dict[str, Any]]]:
        values = self.values.of(features)
        line = extrapolate(values)
        curve = {str(n): v for n, v in values.items() if n >= LEAST}
        return [(line.value, {"slope": line.slope, "standard_error": line.standard_error, "curve": curve})]


class Asked(NamedTuple):
    """What the numbers of `eval.also` are made from.

    Attributes:
        main: the definition of the main metric; `common`: the same without its reference.
        names: what each number is called on these features.
        curve: the main metric by number of samples.
        reference: gives features of the data, once.
    """

    main: Definition
    common: Definition
    names: Mapping[str, str]
    curve: CurveValues
    reference: Callable[[], ReferenceFeatures]


def _precision_recall(asked: Asked) -> Beside:
    names = (asked.names["precision"], asked.names["recall"])
    what = "improved precision and recall: in a ball around a point, to its k-th nearest other, edge included"
    return Neighbours(asked.common, names, what, 3, precision_recall, asked.reference())


def _density_coverage(asked: Asked) -> Beside:
    names = (asked.names["density"], asked.names["coverage"])
    what = "density and coverage: in a ball around a point of the data, to its k-th nearest other, edge excluded"
    return Neighbours(asked.common, names, what, 5, density_coverage, asked.reference())


BESIDE: dict[str, Callable[[Asked], Beside]] = {
    "kid": lambda asked: KernelDistance(asked.common, asked.names["kid"], asked.reference()),
    "precision_recall": _precision_recall,
    "density_coverage": _density_coverage,
    "curve": lambda asked: Curve(asked.main, asked.curve),
    "infinity": lambda asked: Limit(asked.main, asked.names["infinity"], asked.curve),
}
"""What `eval.also` may name -> how it is made."""


def build_beside(
    also: Sequence[str],
    main: Definition,
    sizes: Sequence[int],
    moments: Moments,
    names: Mapping[str, str],
    reference: Callable[[], ReferenceFeatures],
) -> tuple[Beside, ...]:
    """The numbers of `also`, in its order; see `Asked`.

    Raises:
        MetricError: what is asked for needs more samples, or the data's features.
    """
    common = {key: value for key, value in main.items() if key != "reference"}
    asked = Asked(main, common, names, CurveValues(sizes, moments), cache(reference))
    return tuple(BESIDE[name](asked) for name in also)
