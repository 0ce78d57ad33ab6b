from setuptools import find_packages, setup

package_name = "wallx_policy"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    zip_safe=True,
    maintainer="wallx-ros maintainers",
    maintainer_email="maintainers@wallx-ros.org",
    description="WALL-OSS inference, observations, recording and evaluation",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "policy_node = wallx_policy.startup:policy_node",
            "recorder_node = wallx_policy.startup:recorder_node",
            "trace_node = wallx_policy.startup:trace_node",
        ],
        # Other packages plug in policies under the same group; see wallx_policy.backends.
        "wallx_policy.backends": [
            "expert = wallx_policy.backends.expert:ExpertBackend",
            "hold = wallx_policy.backends.hold:HoldBackend",
            "sine = wallx_policy.backends.sine:SineBackend",
            "wall_oss = wallx_policy.backends.wall_oss:WallOssBackend",
        ],
    },
)
