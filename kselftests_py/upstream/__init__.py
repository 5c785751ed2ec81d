"""The kernel's own selftests of userfaultfd: built from its own source, and their output read."""
