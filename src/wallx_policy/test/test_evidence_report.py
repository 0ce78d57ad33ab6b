"""Report and video must show what was measured, in one file each, also of a poor bag."""

import base64
import json
import re

import av
import numpy as np
import pytest
from so101_driver.errors import UserError
from wallx_policy.evidence import ActFiles, measure_demo, write_figures, write_report, write_video
from wallx_policy.evidence.frames import key_moments


def images_of(html):
    found = re.findall(r"src='data:image/png;base64,([^']+)'", html)
    assert html.count("src=") == len(found), "the report must need no other file"
    return [base64.b64decode(data) for data in found]


def test_the_report_holds_every_row_and_picture_of_both_acts(synthetic_bag, tmp_path):
    (tmp_path / "bare.json").write_text(json.dumps({"periods_s": [0.01] * 500}))
    told = []
    demo = measure_demo(
        [
            ActFiles("expert <1>", synthetic_bag("one", duration_s=2.0)),
            ActFiles("model", synthetic_bag("two", duration_s=2.0), has_task=False, note="Random."),
        ],
        tmp_path / "bare.json",
        lambda text, share: told.append((text, share)),
    )
    path = write_report(demo, tmp_path / "out", lambda text, share: told.append((text, share)))
    html = path.read_text()
    assert "expert &lt;1&gt;" in html and "Random." in html
    for act in demo.acts:
        for row in act.rows:
            assert row.name in html
    # Per act: filmstrip, cube, joints, periods, delays; no limits file, so no limits picture.
    assert len(images_of(html)) == 10
    assert html.count("nothing of it is in the bag") == 2
    assert "Not every bar was met" in html
    assert "<b>expert &lt;1&gt;</b>: cube lifted" in html
    figures = json.loads(write_figures(demo, tmp_path / "out").read_text())
    assert figures["model"]["chunk rate"]["bar"] == "≥ 10 Hz"
    assert all(0.0 <= share <= 1.0 for _, share in told)


def test_a_bag_with_hardly_anything_still_gets_a_report(synthetic_bag, tmp_path):
    everything = (
        "joint_states joint_commands sim/wire_log action_chunk sim/objects "
        "camera/face_view/image_raw/compressed camera/wrist_view/image_raw/compressed"
    )
    folder = synthetic_bag(duration_s=1.0, leave_out=tuple(everything.split()))
    demo = measure_demo([ActFiles("expert", folder)])
    html = write_report(demo, tmp_path).read_text()
    assert images_of(html) == []
    with pytest.raises(UserError, match="no camera images"):
        write_video(demo, tmp_path)


def test_key_moments_follow_the_cube(synthetic_bag):
    demo = measure_demo([ActFiles("expert", synthetic_bag(duration_s=4.0))])
    captions = [moment.caption for moment in key_moments(demo.acts[0])]
    assert captions == [
        "start",
        "first motion",
        "grasp",
        "lifted 80 mm",
        "release",
        "after release",
        "parking begins",
        "end",
    ]


def test_the_video_shows_both_views_for_as_long_as_the_bag(synthetic_bag, tmp_path):
    demo = measure_demo([ActFiles("expert", synthetic_bag(duration_s=2.0))])
    path = write_video(demo, tmp_path)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == pytest.approx(2.0 * 15, abs=2)
    # The red disc of the synthetic pictures moves to the right in both views.
    first, last = (np.argwhere(f[:, :, 0].astype(int) - f[:, :, 1] > 100) for f in frames[5:26:20])
    for left, right in ((0, 530), (550, 960)):
        columns = [p[:, 1][(p[:, 1] > left) & (p[:, 1] < right)].mean() for p in (first, last)]
        assert columns[1] > columns[0] + 50
