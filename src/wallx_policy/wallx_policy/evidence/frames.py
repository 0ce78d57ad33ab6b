"""Camera frames of a recorded act: one at a time, and the moments worth showing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wallx_policy.evidence.bag import Bag, Topic
from wallx_policy.evidence.measurement import ActMeasurement
from wallx_policy.evidence.rows import CUBE
from wallx_policy.evidence.series import SafetyState
from wallx_policy.images import EncodedImage, RawImage, to_rgb

MOVED_RAD = 0.02
LIFTED_OFF_M = 0.01
FRAMES_EVENLY = 7


@dataclass(frozen=True, slots=True)
class Moment:
    """A time worth a picture, and why."""

    time_ns: int
    caption: str


class Frames:
    """The images of one view.

    Args:
        bag: Where they are.
        topic: CompressedImage or Image.
    """

    def __init__(self, bag: Bag, topic: Topic) -> None:
        self._compressed = topic.type_name == "sensor_msgs/msg/CompressedImage"
        self._messages = bag.decode(topic)
        self._stamps_ns = np.array(
            [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in self._messages]
        )

    def at(self, time_ns: int) -> NDArray[np.uint8] | None:
        """Return the newest frame exposed by then as RGB [h, w, 3]; None if it is unreadable."""
        index = max(0, int(np.searchsorted(self._stamps_ns, time_ns, side="right")) - 1)
        message = self._messages[index]
        try:
            if self._compressed:
                return to_rgb(EncodedImage(message.data.tobytes()))
            return to_rgb(
                RawImage(
                    message.height,
                    message.width,
                    message.step,
                    message.encoding,
                    message.data.tobytes(),
                )
            )
        except ValueError:
            return None


def views(act: ActMeasurement) -> Mapping[str, Frames]:
    """Return the frames of every recorded view, the expected ones first."""
    order = [*(v for v in act.files.cameras if v in act.cameras), *act.cameras]
    return {view: Frames(act.bag, act.cameras[view]) for view in dict.fromkeys(order)}


def side_by_side(pictures: Sequence[NDArray[np.uint8]], gap: int = 6) -> NDArray[np.uint8]:
    """Return RGB pictures beside each other, scaled to the first one's height."""
    if not pictures:
        return np.full((1, 1, 3), 255, np.uint8)
    height = pictures[0].shape[0]
    parts: list[NDArray[np.uint8]] = []
    for picture in pictures:
        width = round(picture.shape[1] * height / picture.shape[0])
        parts += [cv2.resize(picture, (width, height)), np.full((height, gap, 3), 255, np.uint8)]
    return np.hstack(parts[:-1])


def key_moments(act: ActMeasurement) -> list[Moment]:
    """Return the moments that tell the story of an act, in order.

    Times come from what was commanded and where the cube was, so they fit any run.
    """
    found = [Moment(act.bag.start_ns, "start")]
    if act.commands is not None and len(act.commands):
        moved = np.abs(act.commands.position_rad - act.commands.position_rad[0]).max(axis=1)
        first = int(np.argmax(moved > MOVED_RAD))
        if moved[first] > MOVED_RAD:
            found.append(Moment(int(act.commands.publish_ns[first]), "first motion"))
    task = _task_moments(act) if act.files.has_task else []
    found += task
    if act.safety is not None:
        parking = [t for t, state in act.safety.changes() if state is SafetyState.PARKING]
        if parking:
            found.append(Moment(parking[0], "parking begins"))
    found.append(Moment(act.bag.end_ns, "end"))
    if not task:
        between = np.linspace(found[0].time_ns, found[-1].time_ns, FRAMES_EVENLY + 2)[1:-1]
        found += [Moment(int(time_ns), "") for time_ns in between]
    return sorted(found, key=lambda moment: moment.time_ns)


def _task_moments(act: ActMeasurement) -> list[Moment]:
    if act.objects is None:
        return []
    height = act.objects.height_m(CUBE)
    if not np.any(np.isfinite(height)):
        return []
    times_ns = act.objects.time_ns
    rise = height - height[np.flatnonzero(np.isfinite(height))[0]]
    top = int(np.nanargmax(rise))
    lifted = np.flatnonzero(rise > LIFTED_OFF_M)
    if len(lifted) == 0:
        return []
    last = int(lifted[-1])
    after = min(last + 10, len(times_ns) - 1)
    return [
        Moment(int(times_ns[max(0, lifted[0] - 4)]), "grasp"),
        Moment(int(times_ns[top]), f"lifted {rise[top] * 1e3:.0f} mm"),
        Moment(int(times_ns[last]), "release"),
        Moment(int(times_ns[after]), "after release"),
    ]
