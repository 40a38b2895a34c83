"""The commands behind `make space-check` and `make space`: `python -m space check`, `python -m space upload NAME`."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from settings import Settings
from space.check import check_resolution, check_tree, list_files
from space.upload import FREE_HARDWARE, UploadPlan, push
from streaming.errors import UsageError

ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 1 for a broken rule, 2 when nothing could be checked or uploaded."""
    options = _parse_options(arguments)
    try:
        files = list_files(options.root)
        is_upload = options.command == "upload"
        plan = UploadPlan(options.root, options.name, files, options.hardware) if is_upload else None
        if not _run_checks(options.root, files, resolve=options.resolve):
            return 1
        if plan is None:
            return 0
        print(plan.describe())
        print(
            f"uploaded: {push(plan)}"
            if options.push
            else "nothing was uploaded (repeat the command with PUSH=1 to upload)"
        )
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: {options.root}: {error} (use a clone of the repository, with Git)", file=sys.stderr)
        return 2
    return 0


def _run_checks(root: Path, files: Sequence[str], *, resolve: bool) -> bool:
    problems = list(check_tree(root, files, Settings.from_environment()))
    if resolve and not problems:
        problems = list(check_resolution(root))
    for problem in problems:
        print(problem)
    what = "card, pins, start, address, sizes, secrets" + (", resolution" if resolve else "")
    if not problems:
        print(f"right:    {what} ({len(files)} files)")
    return not problems


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m space", description="Check or upload this repository as a Space.")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the repository (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check the tree that would be uploaded")
    check.add_argument("--resolve", action="store_true", help="resolve the packages for each Python too (network)")
    upload = commands.add_parser("upload", help="show what would be uploaded, or upload it with --push")
    upload.add_argument("name", help="the Space, as user/space")
    upload.add_argument("--hardware", default=FREE_HARDWARE, help="hardware of a new Space (default: %(default)s)")
    upload.add_argument("--push", action="store_true", help="upload, with the token of hf auth login or HF_TOKEN")
    upload.set_defaults(resolve=False)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
