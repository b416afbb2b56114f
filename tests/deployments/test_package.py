"""The package as the image installs it: made of what the Containerfile copies, in a folder that knows no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from demo.prefect_server import BIN, ROOT

TOPS = ("runbook", "tasks", "flows", "ingress", "deployments")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    copied = [
        line.split()[1:] for line in (ROOT / "deployments/Containerfile").read_text().splitlines() if "COPY" in line
    ]
    for name in [name for *names, _ in copied for name in names]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    wheel = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(target), str(source)]
    subprocess.run(wheel, check=True, timeout=300)
    (built,) = target.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(target), str(built)], check=True, timeout=300)
    return target


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``runbook`` of that folder; -S, as site would lead what is missing there to the checkout."""
    seen = {"PYTHONPATH": f"{installed}{os.pathsep}{sysconfig.get_path('purelib')}", "PATH": os.environ["PATH"]}
    own = {"RUNBOOK_HOME": str(installed), "RUNBOOK_LEDGER_URL": f"sqlite:///{installed}/ledger.db"}
    command = [sys.executable, "-S", str(installed / "bin" / "runbook"), *words]
    return subprocess.run(command, env=seen | own, cwd=installed, capture_output=True, text=True, timeout=120)


def test_every_package_of_the_product_is_installed(installed: Path) -> None:
    ours = {init.parent.relative_to(ROOT) for top in TOPS for init in (ROOT / top).rglob("__init__.py")}
    modules = {path.relative_to(ROOT) for top in TOPS for path in (ROOT / top).rglob("*.py")}
    assert {path.parent for path in modules} == ours, "a folder of modules without __init__.py is not installed"
    assert {path for path in modules if not (installed / path).exists()} == set()


def test_the_red_button_of_an_installed_package(installed: Path) -> None:
    done = run(installed, "stop", "upgrade")
    assert done.returncode == 0, done.stderr
    assert "Stopped" in done.stdout
    assert "stopped: True" in run(installed, "status").stdout


def test_an_installed_package_has_every_command_of_the_checkout(installed: Path) -> None:
    here = subprocess.run([str(BIN / "runbook"), "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert here.stdout and run(installed, "--help").stdout == here.stdout
