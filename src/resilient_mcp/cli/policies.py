"""The policy given with `--policy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ..config import policy_problems
from ..policy import Policy


def policy_of(given: Mapping[str, Any]) -> Policy:
    """The policy in the value of `--policy`.

    Raises:
        ValueError: It is not a policy; the message names the key, the value and the remedy.
    """
    try:
        return Policy.model_validate(given)
    except ValidationError as exc:
        problems = (": ".join(filter(None, [".".join(keys), text])) for keys, text in policy_problems(exc))
        raise ValueError(f"--policy: {'; '.join(problems)}") from None
