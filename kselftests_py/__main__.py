"""``python -m kselftests_py``: the ``kst`` command of this very package, whatever else is installed."""

from kselftests_py.cli import main

main(prog_name="kst")
