# SPDX-License-Identifier: Apache-2.0
"""The node writes no image to disk: it may show a patient."""

import contextlib

from bench import image_cdr, make_image
from nodes import NodeProcess
from sensor_msgs.msg import Image


def test_no_frame_is_written_anywhere(bench, model, tmp_path, monkeypatch):
    """In the folders where the process could put files, there are its log and a conversion."""
    paths = {}
    for name in ('HOME', 'TMPDIR', 'XDG_CACHE_HOME', 'ROS_LOG_DIR'):
        paths[name] = tmp_path / name
        paths[name].mkdir()
        monkeypatch.setenv(name, str(paths[name]))
    log = tmp_path / 'log'
    node = NodeProcess(log, bench.namespace, model=model, stale_after_ms=600_000)
    with contextlib.closing(node):
        mask, camera = bench.listen(Image, 'mask'), bench.camera()
        bench.connect(camera, mask)
        for number in range(3):
            stamp_ns = bench.new_stamp_ns()
            camera.publish(image_cdr(make_image(number), stamp_ns))
            mask.wait_for_stamp(stamp_ns)
        camera.publish(image_cdr(make_image(5), bench.new_stamp_ns())[:500])
        node.wait_for_log('image dropped')
        assert node.interrupt() == 0
    written = [path for folder in paths.values() for path in folder.rglob('*') if path.is_file()]
    cache = paths['XDG_CACHE_HOME'] / 'surgseg_ros/openvino'
    assert {path.parent for path in written} <= {paths['ROS_LOG_DIR'], cache}
    for path in [log, *written]:
        content = path.read_bytes()
        assert len(content) < 10_000 or path.suffix == '.entry', path
        assert not any(row.tobytes() in content for row in make_image(0)), path
