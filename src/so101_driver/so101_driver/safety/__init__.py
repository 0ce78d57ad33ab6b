"""The safety/interpolator layer: turns chunks into commands that the arm may always execute."""

from so101_driver.safety.limits import Limits, effective_limits

__all__ = ["Limits", "effective_limits"]
