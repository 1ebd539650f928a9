"""The layout of the package, read from its source: who may import what, how long a module is, which test proves it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "resilient_mcp"

# The packages and modules at the top level, from bottom to top: each imports only from those before it.
ORDER = (
    "bounded",  # collections with a limit
    "event_loop",  # a clock, signals, tasks
    "evidence",  # what a transport saw of a failure
    "in_flight",  # the requests of one connection
    "schemas",  # compiled JSON Schemas
    "text",  # printable text, without secrets
    "foreign_code",  # the boundary around callbacks, hooks and handlers
    "_sdk",  # the installed major of mcp
    "policy",  # what a user configures
    "strategies",  # state machines: back-off, circuit breaker, budget, rate limit
    "verdicts",  # what a failure means, and what a user can do about it
    "errors",  # what a user catches
    "events",  # what a user observes
    "observability",  # logs, events, statistics, OpenTelemetry
    "transports",  # one module per kind of server
    "connection",  # one connection at a time, and the next one
    "calls",  # one call, from admission to its end
    "explanation",  # a failure's verdict, for a user
    "subscriptions",  # what is restored after a reconnect
    "session",  # the type that a client and a `ClientSession` share
    "session_view",
    "session_methods",  # the methods of the SDK's session
    "bridge",  # a server in front of a client
    "client",
    "config",  # files of servers
    "group",  # many clients as one
    "_api",  # every exported name
    "testing",  # for the tests of users
    "integrations",  # one module per agent framework
    "demo",
    "cli",
)

# A module of more lines needs a reason here.
MAX_LINES = 450
LONG = {
    "transports.stdio": "writer and reader share one process and the evidence of its end",
    "calls.gate": "admission and release of each limit belong together: what one takes the other gives back",
    "calls.executor": "one loop per call; its branches share the call's state",
    "connection.supervisor": "one state machine",
    "session_methods": "one short method per method of the SDK's session",
    "config": "what three hosts write, and a message for each mistake",
}

# Where the classes of a user's server may be told apart: everything else asks `connection.server.server_of`.
PARAMETERS = {"StdioServerParameters", "StreamableHttpParameters", "SseServerParameters"}
TELLS_APART = {
    "transports.stdio": "the kind itself",
    "transports.streamable_http": "the kind itself",
    "transports.sse": "the kind itself",
    "demo.stage": "its plain side opens the SDK's own transports, as a user of the SDK does",
}

# The tests of each module that has no test file of its name: a file that imports the module or a name it defines. Where
# none does, because the module is reached through the client or a command, the test is named.
TESTED_IN = {
    "__init__": "test_exports.py::test_all_names_every_export",
    "_api": "test_exports.py::test_all_names_every_export",
    "_sdk.installed": "test_errors.py",
    "_sdk.messages": "test_bridge.py",
    "_sdk.options": "test_dropin.py",
    "_sdk.repairs": "test_http.py::test_the_first_answers_of_a_tool_share_one_listing",
    "_sdk.results": "test_dropin.py",
    "_sdk.session": "test_dropin.py::test_the_sessions_own_helpers",
    "_sdk.transports": "test_http.py::test_the_older_sse_transport",
    "calls.catalog": "test_fallbacks.py",
    "calls.operation": "test_ending.py",
    "calls.probe": "test_gate.py",
    "cli.app": "test_cli.py",
    "cli.call": "test_cli.py",
    "cli.narrate": "test_wrap.py::test_a_session_through_a_crash",
    "cli.policies": "test_wrap.py::test_wrong_usage",
    "cli.run": "test_cli.py",
    "cli.signals": "test_cli.py",
    "cli.tools": "test_cli.py",
    "cli.trouble": "test_check.py::test_servers_that_fail",
    "connection.connector": "test_stdio.py",
    "connection.generation": "test_stdio.py",
    "connection.server": "test_remedies.py",
    "demo": "test_cli.py::test_demo_keeps_its_promises",
    "demo.notes": "test_examples.py::test_watching_resources",
    "demo.processes": "test_cli.py::test_demo_keeps_its_promises",
    "demo.scenes": "test_cli.py",
    "demo.screen": "test_cli.py",
    "demo.server": "test_cli.py::test_demo_keeps_its_promises",
    "demo.stage": "test_cli.py",
    "explanation": "test_explain.py",
    "in_flight": "test_evidence.py",
    "observability.calls": "test_events.py::test_a_call_can_be_traced_through_its_retries",
    "observability.hub": "test_events.py",
    "observability.stats": "test_events.py",
    "session": "test_typing.py::test_mypy_finds_exactly_the_errors_that_the_comments_name",
    "session_methods": "test_client.py::test_every_operation_works",
    "strategies.backoff": "test_strategies.py",
    "strategies.budget": "test_strategies.py",
    "strategies.concurrency": "test_strategies.py",
    "strategies.loop_guard": "test_strategies.py",
    "strategies.restart_meter": "test_strategies.py",
    "subscriptions.replay": "test_subscriptions.py::test_subscriptions_and_the_log_level_are_restored",
    "subscriptions.watcher": "test_subscriptions.py",
    "testing": "test_testing_servers.py",
    "testing._beside": "test_testing_servers.py::test_http_default_answers",
    "testing._protocol": "test_testing_servers.py::test_the_modern_era",
    "testing._sockets": "test_testing_servers.py::test_http_cut_in_the_body",
    "testing.http_server": "test_testing_servers.py",
    "testing.replies": "test_testing_servers.py",
    "testing.script": "test_testing_servers.py::test_http_script_by_method_or_function",
    "testing.stdio_server": "test_testing_servers.py",
    "testing.toxics": "test_testing_proxy.py",
    "text.configured": "test_credentials.py",
    "text.patterns": "test_redact.py::test_unconfigured_secrets_are_recognised",
    "text.printable": "test_evidence.py",
    "text.spellings": "test_redact.py::test_every_spelling_of_a_secret",
    "transports.foreign": "test_dropin.py::test_a_transport_that_opens_once_is_refused",
    "transports.guard": "test_stdio.py::test_a_program_that_is_killed_leaves_no_server",
    "transports.host_requests": "test_bridge.py::test_server_requests_and_the_hosts_answers_are_forwarded_unchanged",
    "transports.http.answers": "test_sse_events.py",
    "transports.http.auth": "test_oauth.py::test_a_login_that_fails_at_the_start",
    "transports.http.delivery": "test_http.py::test_a_users_transport_proves_only_what_the_trace_shows",
    "transports.http.endpoint": "test_headers.py::test_a_token_is_rotated_without_a_restart",
    "transports.http.headers_command": "test_headers.py",
    "transports.http.logs": "test_redact.py",
    "transports.http.sending": "test_http.py::test_only_redirects_within_the_origin_are_followed",
    "transports.http.transport": "test_http_transport.py::test_a_reply_that_is_never_accepted_delays_no_call",
    "transports.jsonrpc": "test_sse_events.py",
    "transports.in_process": "test_client.py::test_an_in_process_server",
    "transports.outbox": "test_bridge.py",
    "transports.process": "test_stdio.py",
    "transports.server": "test_client.py::test_a_transport_factory",
    "transports.sse": "test_http.py::test_the_older_sse_transport",
    "transports.streamable_http": "test_http.py::test_parameters_with_headers",
    "transports.watched": "test_client.py::test_a_transport_factory",
    "verdicts.samples": "test_explain.py",
    "verdicts.verdict": "test_classifier.py",
}


# --- reading the source ---


def name_of(path: Path) -> str:
    """A module's name within the package, such as `calls.gate`; that of a package is its own, `__init__` at the top."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
PATHS = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported(name: str) -> Iterator[tuple[str, str]]:
    """Every (module, name) that a module imports, anywhere in it; of `import module`, the name is empty.

    Modules of this package are absolute.
    """
    folder = PATHS[name].relative_to(SOURCE.parent).parts[:-1]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *(node.module.split(".") if node.module else ())])
            yield from ((module, alias.name) for alias in node.names)


def own_modules(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    found = set()
    for module, member in imported(name):
        if module.split(".")[0] == SOURCE.name:
            inner = module.removeprefix(SOURCE.name).lstrip(".")
            submodule = f"{inner}.{member}".lstrip(".")
            found.add(submodule if submodule in TREES else inner or "__init__")
    return found


IMPORTS = {name: own_modules(name) for name in TREES}


def calls_of(name: str, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            yield node


def words_in(node: ast.AST) -> set[str]:
    """All names and attributes in a piece of code."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


# --- what holds ---


def test_there_are_no_import_cycles():
    """No module needs itself through others, not even by an import inside a function or for a type checker."""
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as exc:
        pytest.fail(" imports ".join(reversed(exc.args[1])))


def test_the_order_has_every_module():
    """Each package and module at the top level has its place, and only one."""
    top = {name.split(".")[0] for name in TREES} - {"__init__"}
    assert sorted(ORDER) == sorted(top)


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_from_below(package: str):
    """A module imports from its own package and from those before it."""
    below = {*ORDER[: ORDER.index(package)], package}
    above = {
        f"{name} imports {module}"
        for name in TREES
        if is_inside(name, package)
        for module in IMPORTS[name]
        if module.split(".")[0] not in below
    }
    assert not above


def test_the_package_itself_imports_its_exports_only():
    """`import resilient_mcp` is quick: it leads to `_api`, which is imported with the first name that is used."""
    assert IMPORTS["__init__"] == {"_api"}
    assert not [name for name, modules in IMPORTS.items() if "__init__" in modules]


@pytest.mark.parametrize("name", [name for name in TREES if not is_inside(name, "_sdk")])
def test_only_sdk_knows_which_major_of_mcp_is_installed(name: str):
    """The rest uses neither the version nor an HTTP library directly, and imports only what both majors have.

    The suite runs with both: a name that one of them lacks fails with that one.
    """
    found = list(imported(name))
    assert not {"MAJOR", "import_module"} & {member for _, member in found}
    assert not {"MAJOR", "import_module", "__import__"} & words_in(TREES[name])
    assert not {"httpx", "httpx2", "httpcore", "httpcore2"} & {module.split(".")[0] for module, _ in found}
    for module, member in found:
        if module.split(".")[0] == "mcp":
            exists(module, member)
    if ("mcp", "types") in found:
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "types":
                exists("mcp.types", node.attr)


def exists(module: str, member: str) -> Any:
    """Fail unless the installed SDK has it."""
    there = import_module(module)
    assert not member or hasattr(there, member) or import_module(f"{module}.{member}"), f"{module}.{member}"


@pytest.mark.parametrize("name", [name for name in TREES if not is_inside(name, "demo")])
def test_imports_within_the_package_are_relative(name: str):
    """Imports are relative, except in the demo, whose files show users what they would import."""
    nodes = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) and not node.level]
    absolute = [module for node in nodes if (module := node.module or "").split(".")[0] == SOURCE.name]
    absolute += [module for module, member in imported(name) if not member and module.split(".")[0] == SOURCE.name]
    assert not absolute


def test_no_module_is_too_long():
    """A module is read in one sitting; those that are longer have a reason, and those that are not need none."""
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in PATHS.items()}
    assert {name: length for name, length in lines.items() if length > MAX_LINES}.keys() == LONG.keys()


def test_the_kinds_of_server_are_told_apart_in_one_place():
    """A new transport is a module and a line in `connection.server.KINDS`, so nothing else asks for a kind by class."""
    checks = {
        name
        for name, tree in TREES.items()
        if any(PARAMETERS & words_in(call) for each in ("isinstance", "issubclass") for call in calls_of(name, each))
        or any(isinstance(node, ast.MatchClass) and PARAMETERS & words_in(node.cls) for node in ast.walk(tree))
    }
    assert checks == TELLS_APART.keys()


def test_what_is_imported_is_declared():
    """Each package that is imported is a dependency in pyproject.toml, or the dependency of one."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = {name.replace("-", "_") for name in re.findall(r'"([a-z][\w-]*)[>=\[<]', project)}
    come_along = {"pydantic_core": "pydantic", "opentelemetry": "opentelemetry_api", "uvicorn": "mcp"}
    assert set(come_along.values()) <= declared
    needed = {
        module.split(".")[0] for name in TREES if not is_inside(name, "integrations") for module, _ in imported(name)
    }
    assert needed - declared - come_along.keys() - set(sys.stdlib_module_names) - {SOURCE.name} == set()


# --- which test proves which module ---


def own_files(name: str) -> list[str]:
    """The names that a test file of a module may have: `test_gate.py` or `test_calls_gate.py`."""
    parts = [part.strip("_") for part in name.split(".")]
    return [f"test_{parts[-1]}.py", f"test_{'_'.join(parts)}.py"]


FILES = {
    path.name: path for folder in (ROOT / "tests", ROOT / "tests" / "frameworks") for path in folder.glob("test_*.py")
}


def has_code(name: str) -> bool:
    """Whether a module is more than a docstring, as the `__init__` of most packages."""
    return not all(isinstance(node, ast.Expr) for node in TREES[name].body)


def test_each_module_has_a_test_file():
    """It has one of its name or an entry in `TESTED_IN`, not both."""
    named = {name for name in TREES if FILES.keys() & set(own_files(name))}
    needed = {name for name in TREES if has_code(name)} - named
    assert sorted(TESTED_IN) == sorted(needed)


@pytest.mark.parametrize(("name", "where"), TESTED_IN.items(), ids=list(TESTED_IN))
def test_the_map_of_tests_is_true(name: str, where: str):
    """The file imports the module or what it defines, or has the test that is named."""
    file, _, test = where.partition("::")
    tree = ast.parse(FILES[file].read_text(encoding="utf-8"))
    if test:
        assert test in {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        return
    defined = {node.name for node in TREES[name].body if hasattr(node, "name")}
    defined |= {word for node in TREES[name].body if isinstance(node, ast.Assign) for word in map(str, words_in(node))}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == SOURCE.name:
            inner = (node.module or "").removeprefix(SOURCE.name).lstrip(".")
            for alias in node.names:
                used |= {inner, f"{inner}.{alias.name}".lstrip("."), *({name} if alias.name in defined else ())}
    assert name in used
