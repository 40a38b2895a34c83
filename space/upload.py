"""The upload of this repository to a Space through `huggingface_hub`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, SpaceHardware
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from space.card import README
from streaming.errors import UsageError

FREE_HARDWARE = SpaceHardware.ZERO_A10G.value
"""What a free account may create since July 2026; a Gradio Space on a CPU needs a PRO subscription."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_THUMBNAIL = re.compile(r"^thumbnail: (?!https?:)(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """What is sent to which Space, and the hardware with which the Space is created if it does not exist yet."""

    root: Path
    name: str
    files: Sequence[str]
    hardware: str = FREE_HARDWARE

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise UsageError(f"NAME: {self.name!r} is not the name of a Space (write NAME=user/space)")
        if self.hardware not in {one.value for one in SpaceHardware}:
            raise UsageError(f"HARDWARE: the Hub has no {self.hardware!r} (use {FREE_HARDWARE} or cpu-basic)")

    def describe(self) -> str:
        """Return in a few lines what an upload would do."""
        size = sum((self.root / name).stat().st_size for name in self.files)
        return (
            f"Space:    https://huggingface.co/spaces/{self.name}\n"
            f"hardware: {self.hardware} (if the Space has to be created)\n"
            f"files:    {len(self.files)}, {size / 1e6:.1f} MB; other files of the Space are deleted\n"
            "secrets:  none; set keys of your own in the Space's settings if you want to pay for answers"
        )

    def content(self, name: str) -> bytes:
        """Return a file as it is uploaded: the card's thumbnail becomes an address, as the Hub requires."""
        data = (self.root / name).read_bytes()
        if name != README:
            return data
        address = rf"thumbnail: https://huggingface.co/spaces/{self.name}/resolve/main/\1"
        return _THUMBNAIL.sub(address, data.decode("utf-8"), count=1).encode("utf-8")


def push(plan: UploadPlan) -> str:
    """Create the Space if it does not exist, and make its files those of the plan, in one commit. Return its address.

    The token is the one that `hf auth login` stored, or `HF_TOKEN`. Raises UsageError when the Hub does not accept it.
    """
    api = HfApi()
    try:
        # Without a token the Hub would be asked, and refuse, only after all files are read.
        api.whoami()
        address = api.create_repo(
            plan.name, repo_type="space", space_sdk="gradio", space_hardware=SpaceHardware(plan.hardware), exist_ok=True
        )
        stale = set(api.list_repo_files(plan.name, repo_type="space")) - {*plan.files, ".gitattributes"}
        operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=plan.content(name)) for name in plan.files),
            *(CommitOperationDelete(path_in_repo=name) for name in sorted(stale)),
        ]
        api.create_commit(plan.name, operations, commit_message="Update the Space", repo_type="space")
    except LocalTokenNotFoundError:
        raise UsageError("PUSH: no token for the Hub is set (run hf auth login, or set HF_TOKEN)") from None
    except HfHubHTTPError as error:
        raise UsageError(f"PUSH: {_explain(error)}") from None
    return str(address)


def _explain(error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else None
    output = (error.server_message or str(error)).splitlines()[0][:200]
    advice = {
        401: "log in again with hf auth login",
        402: f"a free account may host two Spaces, on {FREE_HARDWARE} only; other hardware needs PRO",
        403: "use a token that may write to this account",
    }.get(status or 0, "try again later")
    return f"the Hub answered {status}: {output} ({advice})"
