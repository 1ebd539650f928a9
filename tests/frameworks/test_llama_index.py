"""LlamaIndex with `ResilientClient` as its session."""

from __future__ import annotations

import pytest

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)

pytestmark = pytest.mark.anyio

EXAMPLE = "llama_index_agent"
