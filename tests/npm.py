"""The npm packages that the tests use, installed once per run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_npm = pytest.mark.skipif(
    shutil.which("npm") is None and "CI" not in os.environ, reason="needs npm, which is not installed"
)
NODE = shutil.which("node") or "node"
PACKAGES = ("@modelcontextprotocol/server-everything@2026.8.31", "@modelcontextprotocol/sdk@1.32.2")
PYRIGHT = "pyright@1.1.414"
LOOPBACK_ONLY = """
process.stdin.resume().on("end", () => process.exit());  // exits with its test, however that ends
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, port, "127.0.0.1", ...rest.filter((x) => typeof x === "function"));
};
"""


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the packages, and a script that makes their servers listen on the loopback only."""
    folder = tmp_path_factory.mktemp("everything")
    install(folder, *PACKAGES)
    (folder / "loopback.cjs").write_text(LOOPBACK_ONLY)
    return folder


@pytest.fixture(scope="session")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs pyright."""
    folder = tmp_path_factory.mktemp("pyright")
    install(folder, PYRIGHT)
    return [NODE, str(folder / "node_modules/pyright/index.js")]


def install(folder: Path, *packages: str) -> None:
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *packages]
    subprocess.run(command, check=True, capture_output=True, timeout=180)


def program(folder: Path) -> str:
    return str(folder / "node_modules/@modelcontextprotocol/server-everything/dist/index.js")
