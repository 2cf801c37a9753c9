"""Frechet distances between images and their reference: arithmetic, feature extractors, reference statistics."""


class MetricError(ValueError):
    """A number cannot be computed; the message is one line that says what, where and how to mend it."""
