"""Rosbag2 bags in MCAP: definitions of messages, the file, and the episodes kept in a folder."""
