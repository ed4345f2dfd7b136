"""How tables and plots look, in every report."""

from matplotlib.axes import Axes

__all__ = ["COLOURS", "DPI", "MISSING", "WIDTH_INCHES", "tidy"]

# What a table shows where there is no figure.
MISSING = "–"
# Okabe and Ito's palette without its yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
WIDTH_INCHES = 8.0
DPI = 150  # 8 inches: 1200 px


def tidy(axes: Axes) -> None:
    """Leave out the frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
