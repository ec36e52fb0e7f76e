"""What holds for all tests: a server that one starts brings no trainer along, unless the test is about that."""

import os

os.environ.setdefault("TILLER_TRAINER", "false")
