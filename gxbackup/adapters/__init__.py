"""The doors to the outside: child processes, rclone, Docker. Only here are their names spelled."""
