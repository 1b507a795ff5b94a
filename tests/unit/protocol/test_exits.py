"""What exit codes mean, and which of them somebody should look at."""

from __future__ import annotations

import pytest

from papad.protocol.exits import abnormal, exit_text


@pytest.mark.parametrize(
    ("code", "text", "odd"),
    [
        (0, "ended with exit code 0", False),
        (1, "ended with exit code 1", True),
        (255, "ended with exit code 255", True),
        (-15, "killed by SIGTERM", False),
        (-2, "killed by SIGINT", False),
        (-11, "killed by SIGSEGV", True),
        (-9, "killed by SIGKILL", True),
        (-63, "killed by signal 63", True),
        (256, "ended, exit code unknown", True),
    ],
)
def test_an_exit_code_is_told_in_words(code: int, text: str, odd: bool) -> None:
    assert exit_text(code) == text
    assert abnormal(code) is odd
