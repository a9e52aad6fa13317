"""Masks lines of a log, also where a secret was cut into two of them.

A worker and Buildbot cut a line after 4096 characters, wherever that is.
"""

from __future__ import annotations

from litebot.master.secrets.masker import Masker

STREAMS = "oeh"
# Lines were cut if they are about as long as the longest that Buildbot makes of one.
LONG_LINE = 4000
LONGEST_PART = 4096


def mask_lines(masker: Masker, content: str, *, has_streams: bool) -> tuple[str, str]:
    """Return whole lines without secrets, and the last one apart if it may go on in the next.

    The lines of a log that `has_streams` begin with the letter of their stream.
    """
    if not masker.knows_any:
        return content, ""
    is_found = masker.finds(_joined(content, has_streams))
    last_at = content.rfind("\n", 0, -1) + 1
    # A line with masks may have been as long before.
    is_long = len(content) - last_at >= LONG_LINE or masker.has_label(content[last_at:])
    if not is_found and not is_long:
        return content, ""
    masked = masker.mask(content)
    lines = masked[:-1].split("\n")
    if is_found and masker.finds(_joined(masked, has_streams)):
        for at in range(len(lines) - 1):
            lines[at : at + 2] = _mask_joint(masker, lines[at], lines[at + 1], has_streams)
    held = f"{lines.pop()}\n" if is_long or masker.has_label(lines[-1]) else ""
    return "".join(f"{line}\n" for line in lines), held


def _joined(content: str, has_streams: bool) -> str:
    if content.find("\n") == len(content) - 1:
        return content
    if not has_streams:
        return content.replace("\n", "")
    for stream in STREAMS:
        content = content.replace(f"\n{stream}", "")
    return content


def _mask_joint(masker: Masker, first: str, second: str, has_streams: bool) -> list[str]:
    """Mask what begins at the end of one line and goes on at the beginning of the next."""
    skipped = 1 if has_streams else 0
    if first[:skipped] != second[:skipped]:
        return [first, second]
    begin = max(skipped, len(first) - LONGEST_PART)
    joint = len(first) - begin
    text = first[begin:] + second[skipped : skipped + LONGEST_PART]
    if (found := masker.find_across(text, joint)) is not None:
        start, end, label = found
        first = first[: begin + start] + label
        second = second[:skipped] + second[skipped + end - joint :]
    return [first, second]
