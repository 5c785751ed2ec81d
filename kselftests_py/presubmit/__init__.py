"""A series before it is sent: each commit built, booted and tried, and what it costs in the end."""
