"""Load on a running server: users, arrivals, a rival, and the command that measures both (`make load`)."""
