"""The success check decides what "done" means, so it must say no to every near miss."""

import math

import numpy as np
import pytest
from wallx_policy.backends.base import ObjectPose
from wallx_policy.success import cube_in_tray, lift_height

UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])
TURNED = np.array([0.0, 0.0, math.sin(math.pi / 4), math.cos(math.pi / 4)])


def scene(cube_xyz, tray_quaternion=UPRIGHT):
    return {
        "red_cube": ObjectPose(np.array(cube_xyz), UPRIGHT, np.array([0.025, 0.025, 0.025])),
        "tray": ObjectPose(
            np.array([0.2, 0.1, 0.01]), tray_quaternion, np.array([0.12, 0.08, 0.02])
        ),
    }


@pytest.mark.parametrize(
    ("cube_xyz", "expected"),
    [
        ((0.2, 0.1, 0.0145), True),
        ((0.2, 0.1, 0.0320), True),
        ((0.2, 0.1, 0.0330), False),
        ((0.2, 0.1, 0.08), False),
        ((0.2, 0.1, -0.01), False),
        ((0.259, 0.1, 0.0145), True),
        ((0.261, 0.1, 0.0145), False),
        ((0.2, 0.139, 0.0145), True),
        ((0.2, 0.141, 0.0145), False),
        ((math.nan, 0.1, 0.0145), False),
    ],
)
def test_cube_must_lie_inside_the_tray(cube_xyz, expected):
    assert cube_in_tray(scene(cube_xyz), "red_cube") is expected


def test_a_turned_tray_is_measured_along_its_own_sides():
    assert not cube_in_tray(scene((0.255, 0.1, 0.0145), TURNED), "red_cube")
    assert cube_in_tray(scene((0.2, 0.155, 0.0145), TURNED), "red_cube")


def test_an_unknown_object_is_no_success():
    objects = scene((0.2, 0.1, 0.0145))
    assert not cube_in_tray(objects, "blue_cube")
    del objects["tray"]
    assert not cube_in_tray(objects, "red_cube")


def test_lift_height_is_the_rise_of_the_centre():
    start, now = scene((0.2, 0.1, 0.0125))["red_cube"], scene((0.3, 0.1, 0.0625))["red_cube"]
    assert lift_height(start, now) == pytest.approx(0.05)
