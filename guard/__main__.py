"""Command that creates an API key for the service: `python -m guard NAME`. Its last output line is a JSON object."""

import argparse
import json
import sys
from collections.abc import Sequence

from guard.identity import make_key
from streaming.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a new key and its `API_KEYS` entry, and return the exit code. The key is not stored anywhere."""
    parser = argparse.ArgumentParser(prog="python -m guard", description="Make a key for the service.")
    parser.add_argument("name", help="whose key it is; it names the caller in logs and budgets")
    try:
        key, line = make_key(parser.parse_args(arguments).name)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("The key, for its owner (it is shown this once):", key, sep="\n")
    print("For the service, beside others after a comma:", f"API_KEYS={line}", sep="\n")
    print(json.dumps({"name": line.partition("=")[0], "key": key, "api_keys": line}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
