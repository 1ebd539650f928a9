"""Semantic Kernel on `ResilientPlugin`."""

from __future__ import annotations

import pytest

from .support import check_advice, check_cancel, check_example

pytestmark = pytest.mark.anyio

EXAMPLE = "semantic_kernel_agent"


def test_the_example(tmp_path):
    check_example(EXAMPLE, tmp_path)


async def test_the_model_reads_our_advice(example, tmp_path):
    await check_advice(example.main, tmp_path)


async def test_cancelling_a_run_cancels_the_call(example, tmp_path):
    await check_cancel(example.main, tmp_path)
