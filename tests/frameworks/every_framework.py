"""The tests shared by all frameworks: each module imports them, and names its example in `EXAMPLE`."""

from __future__ import annotations

from .support import check_advice, check_cancel, check_example


def test_the_example(request, tmp_path):
    check_example(request.module.EXAMPLE, tmp_path)


async def test_the_model_reads_our_advice(example, tmp_path):
    await check_advice(example.main, tmp_path)


async def test_cancelling_a_run_cancels_the_call(example, tmp_path):
    await check_cancel(example.main, tmp_path)
