"""kselftests-py: what a kernel's userfaultfd protection does, and what it costs."""
