from setuptools import find_packages, setup

package_name = "so101_driver"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["data/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    zip_safe=True,
    maintainer="wallx-ros maintainers",
    maintainer_email="maintainers@wallx-ros.org",
    description="SO-101 servo bus, safety layer and virtual arm",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "calibrate = so101_driver.startup:calibrate",
            "camera_node = so101_driver.startup:camera_node",
            "driver_node = so101_driver.startup:driver_node",
            "safety_node = so101_driver.startup:safety_node",
            "sim_node = so101_driver.startup:sim_node",
            "teleop_node = so101_driver.startup:teleop_node",
            "virtual_bus = so101_driver.startup:virtual_bus",
        ],
    },
)
