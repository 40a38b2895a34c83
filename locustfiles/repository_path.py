"""Makes the packages of this project importable, wherever Locust was started; imported before all that use them."""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])

if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)
