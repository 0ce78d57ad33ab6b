from glob import glob

from setuptools import find_packages, setup

package_name = "wallx_bringup"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
        ("share/" + package_name + "/launch", glob("launch/*.launch.py")),
        ("share/" + package_name + "/config", glob("config/*.yaml") + glob("config/*.xml")),
        ("share/" + package_name + "/rviz", glob("rviz/*.rviz")),
        # console_scripts go to lib/<package>; the wallx command belongs on the PATH.
        ("bin", ["scripts/wallx"]),
    ],
    zip_safe=True,
    maintainer="wallx-ros maintainers",
    maintainer_email="maintainers@wallx-ros.org",
    description="The graph, its launch file, the wallx command and end-to-end tests",
    license="Apache-2.0",
    entry_points={"console_scripts": []},
)
