"""What is shown of a dead process's stderr: the lines that name the cause, tested with the output of real tools."""

from __future__ import annotations

import pytest

from resilient_mcp.text.last_words import last_words

NPM_404 = """\
npm warn deprecated inflight@1.0.6: This module is not supported
npm error code E404
npm error 404 Not Found - GET https://registry.npmjs.org/@scope%2fdoes-not-exist - Not found
npm error 404
npm error 404  '@scope/does-not-exist@*' is not in this registry.
npm error 404
npm error 404 Note that you can also install from a
npm error 404 tarball, folder, http url, or git url.
npm notice
npm notice New major version of npm available! 10.8.2 -> 11.19.1
npm error A complete log of this run can be found in: /home/me/.npm/_logs/2026-01-01T00_00_00_000Z-debug-0.log
"""
NPM_OLD = """\
npm ERR! code E404
npm ERR! 404 Not Found - GET https://registry.npmjs.org/does-not-exist - Not found
npm ERR! 404\x20
npm ERR! 404  'does-not-exist@*' is not in this registry.
npm ERR! 404 You should bug the author to publish it (or use the name yourself!)
npm ERR! 404\x20
npm ERR! 404 Note that you can also install from a
npm ERR! 404 tarball, folder, http url, or git url.

npm ERR! A complete log of this run can be found in:
npm ERR!     /home/me/.npm/_logs/2026-01-01T00_00_00_000Z-debug-0.log
"""
NPM_REFUSED = """\
npm error code ECONNREFUSED
npm error syscall connect
npm error errno ECONNREFUSED
npm error FetchError: request to http://127.0.0.1:9/@scope%2fx failed, reason: connect ECONNREFUSED 127.0.0.1:9
npm error     at ClientRequest.<anonymous> (/usr/lib/node_modules/npm/node_modules/minipass-fetch/lib/index.js:130:14)
npm error     at ClientRequest.emit (node:events:524:28)
npm error     at process.processTicksAndRejections (node:internal/process/task_queues:83:21) {
npm error   code: 'ECONNREFUSED',
npm error   errno: 'ECONNREFUSED',
npm error   syscall: 'connect',
npm error   address: '127.0.0.1',
npm error   port: 9,
npm error   type: 'system'
npm error }
npm error
npm error If you are behind a proxy, please make sure that the 'proxy' config is set properly.  See: 'npm help config'
npm error A complete log of this run can be found in: /home/me/.npm/_logs/2026-01-01T00_00_00_000Z-debug-0.log
"""
UVX = """\
error: No solution found when resolving tool dependencies
  cause: Because does-not-exist-mcp was not found in the package registry and you require does-not-exist-mcp, we can \
conclude that your requirements are unsatisfiable.
"""
UVX_OLD = """\
  \N{MULTIPLICATION SIGN} No solution found when resolving tool dependencies:
  ╰─▶ Because does-not-exist-mcp was not found in the package registry and you
      require does-not-exist-mcp, we can conclude that your requirements are
      unsatisfiable.
"""
PYTHON = """\
2026-01-01 INFO one
2026-01-01 INFO two
Traceback (most recent call last):
  File "/srv/server.py", line 40, in <module>
    main()
  File "/srv/server.py", line 30, in main
    import weather
  File "/srv/weather.py", line 1, in <module>
    import requests
ModuleNotFoundError: No module named 'requests'
"""
NODE = """\
node:internal/modules/cjs/loader:1210
  throw err;
  ^

Error: Cannot find module '/srv/dist/index.js'
    at Module._resolveFilename (node:internal/modules/cjs/loader:1207:15)
    at Module._load (node:internal/modules/cjs/loader:1038:27)
    at Function.executeUserEntryPoint [as runMain] (node:internal/modules/run_main:164:12)
    at node:internal/main/run_main_module:28:49 {
  code: 'MODULE_NOT_FOUND',
  requireStack: []
}

Node.js v20.20.2
"""
DOCKER = """\
Unable to find image 'nosuch/image:1' locally
docker: Error response from daemon: pull access denied for nosuch/image, repository does not exist

Run 'docker run --help' for more information
"""


@pytest.mark.parametrize(
    ("stderr", "cause"),
    [
        (NPM_404, "npm error 404 '@scope/does-not-exist@*' is not in this registry."),
        (NPM_OLD, "npm ERR! 404 'does-not-exist@*' is not in this registry."),
        (
            NPM_REFUSED,
            NPM_REFUSED.splitlines()[3],
        ),
        (UVX, UVX.splitlines()[1].strip()),
        (UVX_OLD, "╰─▶ Because does-not-exist-mcp was not found in the package registry and you"),
        (PYTHON, "ModuleNotFoundError: No module named 'requests'"),
        (NODE, "Error: Cannot find module '/srv/dist/index.js'"),
        (DOCKER, "Unable to find image 'nosuch/image:1' locally"),
    ],
    ids=["npm-404", "npm-old", "npm-refused", "uvx", "uvx-old", "python", "node", "docker"],
)
def test_the_line_that_names_the_cause_is_shown(stderr: str, cause: str):
    """The cause is among at most six lines of real tools' output, even after a long log."""
    assert cause in last_words(stderr, 6)
    long = "INFO starting\n" * 500 + stderr
    assert cause in last_words(long, 6)
    assert len(last_words(long, 6)) == 6


def test_boilerplate_is_left_out():
    """npm's advice and stack frames take no space from the lines that name the cause."""
    assert last_words(NPM_404, 6) == [
        "npm error code E404",
        "npm error 404 Not Found - GET https://registry.npmjs.org/@scope%2fdoes-not-exist - Not found",
        "npm error 404 '@scope/does-not-exist@*' is not in this registry.",
    ]
    assert last_words(NODE, 6) == [
        "node:internal/modules/cjs/loader:1210",
        "Error: Cannot find module '/srv/dist/index.js'",
    ]


def test_errors_take_precedence_over_other_lines():
    """Lines are chosen in the order last line, errors, not indented, latest, and shown in the order of the text."""
    text = "error: one\nplain\n  detail\nerror: two\n  late detail\nlast"
    assert last_words(text, 1) == ["last"]
    assert last_words(text, 3) == ["error: one", "error: two", "last"]
    assert last_words(text, 4) == ["error: one", "plain", "error: two", "last"]
    assert last_words(text, 5) == ["error: one", "plain", "error: two", "late detail", "last"]
    assert last_words("error: late\n" * 3 + "error: latest", 2) == ["error: late", "error: latest"]


def test_the_last_frames_of_a_python_traceback_are_kept():
    """A traceback is cut from above, so the frame that failed stays next to the error."""
    assert last_words(PYTHON, 3) == ["2026-01-01 INFO one", "2026-01-01 INFO two", PYTHON.splitlines()[-1]]
    without_log = PYTHON.partition("two\n")[2]
    assert last_words(without_log, 3) == [line.strip() for line in without_log.splitlines()[-3:]]


def test_untrusted_text():
    """Whatever a process writes, the lines are printable, not empty, and of bounded length."""
    assert last_words("", 6) == []
    assert last_words("\n \x1b[0m\n\x07\n", 6) == []
    assert last_words("\x1b[31mfatal: red\x1b[0m\r\nprogress 1%\rprogress 2%", 6) == [
        "fatal: red",
        "progress 1%",
        "progress 2%",
    ]
    assert len(last_words("x" * 100_000, 6)[0]) <= 300


def test_boilerplate_is_shown_when_there_is_nothing_else():
    """Lines that are usually left out are better than none."""
    assert last_words("npm notice\nNode.js v20.20.2\n", 6) == ["npm notice", "Node.js v20.20.2"]
