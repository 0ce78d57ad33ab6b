"""The trace must show where the tip goes and went, and stop showing what is over."""

import numpy as np
import pytest
from so101_driver.joints import data_path
from so101_driver.kinematics import Kinematics
from wallx_policy.trace import FAR_COLOUR, NEAR_COLOUR, ActionTrace


@pytest.fixture
def kinematics():
    return Kinematics.from_urdf(data_path("so101.urdf"))


@pytest.fixture
def trace(kinematics):
    return ActionTrace(kinematics, executed_s=2.0)


def test_a_chunk_is_drawn_along_the_tip_from_near_to_far(trace, kinematics):
    positions = np.linspace([0.0] * 6, [0.4] * 6, 25)
    trace.chunk(10.0, positions)
    line, executed = trace.lines(10.1)
    assert line.points_m[-1] == pytest.approx(kinematics.forward(positions[-1])[:3, 3])
    assert line.colours[0] == pytest.approx(NEAR_COLOUR)
    assert line.colours[-1] == pytest.approx(FAR_COLOUR)
    assert len(executed.points_m) == 0


def test_an_old_chunk_disappears(trace):
    trace.chunk(10.0, np.zeros((25, 6)))
    assert trace.lines(11.1)[0] is None


@pytest.mark.parametrize("positions", [np.empty((0, 6)), np.full((25, 6), np.nan)])
def test_a_chunk_that_cannot_be_drawn_replaces_the_last_one(trace, positions):
    trace.chunk(10.0, np.zeros((25, 6)))
    trace.chunk(10.1, positions)
    assert trace.lines(10.1)[0] is None


def test_the_executed_path_fades_and_ends(trace):
    for step in range(40):
        trace.command(step * 0.1, [0.01 * step] * 6)
    trace.command(4.0, [np.nan] * 6)
    _, executed = trace.lines(4.0)
    assert len(executed.points_m) == 20
    assert np.all(np.diff(executed.colours[:, 3]) > 0)
