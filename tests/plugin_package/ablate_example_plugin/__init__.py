"""A plug-in of `ablate`: importing it registers its components, and does nothing else, since workers fork after it."""

from ablate_example_plugin.film import Film as Film
from ablate_example_plugin.parabola import Parabola as Parabola
from ablate_example_plugin.tilted import Tilted as Tilted
