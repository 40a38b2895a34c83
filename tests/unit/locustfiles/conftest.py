"""Adds the `locustfiles` folder to the import path, as Locust does. Only modules without Locust may be imported here.

Locust patches sockets and threads for gevent when it is imported, for the whole process.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "locustfiles"))
