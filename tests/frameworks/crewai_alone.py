"""CrewAI behind `resilient-mcp wrap`, in its own environment: `pytest tests/frameworks/crewai_alone.py`.

It cannot be installed beside the packages of `requirements-1.txt`: it needs openai 2 where the OpenAI Agents SDK needs
openai 3. So this module is collected only when it is named; `requirements-crewai.txt` lists its environment.

Each test runs in its own process, because CrewAI leaves threads, files and event loops behind.
"""

from __future__ import annotations

from tests.test_examples import run_alone

from .support import ADVICE, EXAMPLES, ROOT, Journaled, check_example

EXAMPLE = "crewai_agent"

BEGIN = f"""
import asyncio, os, pathlib, sys

sys.path[:0] = [{str(ROOT)!r}, {str(EXAMPLES)!r}]
from crewai_agent import main
from tests.frameworks.support import HANG, LOSE_AN_ORDER, Journaled

server = Journaled(pathlib.Path(os.environ["HOME"]))
"""

ORDER = """
print(asyncio.run(main(server.parameters, LOSE_AN_ORDER)))
"""

CANCEL = """
async def cancel():
    run = asyncio.ensure_future(main(server.parameters, HANG))
    await server.wait_for("slow began")
    run.cancel()
    await asyncio.wait([run])
    print(run.cancelled(), flush=True)
    os._exit(0)  # a thread of mcpadapt waits for the answer forever

asyncio.run(cancel())
"""


def test_the_example(tmp_path):
    check_example(EXAMPLE, tmp_path)


def test_the_model_reads_our_advice(tmp_path):
    """The model gets the advice for a call that may have run and must not run twice; and it did not run twice."""
    done = run_alone("-c", BEGIN + ORDER, home=tmp_path)
    assert ADVICE.search(done.stdout.splitlines()[-1]), done.stderr
    assert Journaled(tmp_path).ran() == ["ordered tea"]


def test_cancelling_a_run_cancels_the_call(tmp_path):
    """The server is notified, and no process is left behind."""
    done = run_alone("-c", BEGIN + CANCEL, home=tmp_path)
    assert done.stdout.splitlines()[-1] == "True", done.stderr
    assert Journaled(tmp_path).journal() == ["slow began", "cancel received", "slow was cancelled"]
