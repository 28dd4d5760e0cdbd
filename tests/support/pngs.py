"""The smallest image."""

import numpy as np

from conceptprune.models.images import png

PNG = png(np.zeros((2, 2, 3), np.uint8))
