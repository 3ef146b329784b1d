"""terraform/: every module and example is formatted, valid and passes its own tests; what it says of SideCart is true.

Terraform and the AWS provider are looked for, not fetched: TF_PLUGIN_DIR names a mirror of providers (`terraform
providers mirror DIR` makes one), else Terraform's own folders for that are looked through. Where there is none, what
needs it is skipped. Everything runs in a copy, against a stand-in for AWS: nothing here has credentials or reaches AWS.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config.schema import ENVIRONMENT_NAMES, SECTIONS

ROOT = Path(__file__).parents[2]
TERRAFORM = ROOT / "terraform"
MODULES = sorted(str(path.relative_to(TERRAFORM)) for path in (TERRAFORM / "modules").iterdir() if path.is_dir())
EXAMPLES = sorted(str(path.relative_to(TERRAFORM)) for path in (TERRAFORM / "examples").iterdir() if path.is_dir())
ROOTS = [*MODULES, *EXAMPLES]
SOURCES = sorted(path for path in TERRAFORM.rglob("*.tf") if ".terraform" not in path.parts)

PROVIDER = "registry.terraform.io/hashicorp/aws"
OLDEST = (1, 11)
SECONDS = 300
"""How long one command of Terraform may take; they take 2 to 40 s on an idle machine."""


# --- the tool and its provider ----------------------------------------------------------------------------------------


@functools.cache
def _version() -> tuple[tuple[int, ...], str]:
    """Return Terraform's version and platform, (1, 11, 4) and linux_amd64; skip the test where it is missing."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on PATH")
    told = json.loads(_run("terraform", "version", "-json", cwd=ROOT).stdout)
    version = tuple(int(part) for part in told["terraform_version"].partition("-")[0].split("."))
    if version < OLDEST:
        pytest.skip(f"terraform {told['terraform_version']} is too old: 1.11 or newer is needed")
    return version, told["platform"]


def _mirrors() -> Iterator[Path]:
    """Name the folders that may hold providers: the one that is given, Terraform's own, and what lies below /opt."""
    if os.environ.get("TF_PLUGIN_DIR"):
        yield Path(os.environ["TF_PLUGIN_DIR"])
        return
    home = Path.home()
    # Terraform's documentation, "Implied Local Mirror Directories", for Linux and macOS.
    yield home / ".terraform.d" / "plugins"
    yield Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "terraform" / "plugins"
    for folder in (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"):
        yield Path(folder) / "terraform" / "plugins"
    yield home / "Library" / "Application Support" / "io.terraform" / "plugins"
    yield Path("/Library/Application Support/io.terraform/plugins")
    if os.environ.get("TF_PLUGIN_CACHE_DIR"):
        yield Path(os.environ["TF_PLUGIN_CACHE_DIR"])
    yield from sorted(path.parents[2] for path in Path("/opt").glob(f"*/{PROVIDER}"))


@functools.cache
def _mirror() -> Path:
    """Return a folder with the AWS provider for this platform; skip the test where there is none."""
    platform = _version()[1]
    for folder in _mirrors():
        unpacked = folder.glob(f"{PROVIDER}/*/{platform}/terraform-provider-aws*")
        packed = folder.glob(f"{PROVIDER}/terraform-provider-aws_*_{platform}.zip")
        if any(unpacked) or any(packed):
            return folder.resolve()
    pytest.skip(
        f"no mirror has the provider hashicorp/aws for {platform}: make one with `terraform providers mirror DIR` in"
        " terraform/examples/complete, and set TF_PLUGIN_DIR=DIR"
    )


def _run(*command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command without whatever the caller's environment says about Terraform and AWS."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))}
    environment |= {"TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", **more}
    return subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )


def _succeed(*command: str, cwd: Path) -> str:
    done = _run(*command, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)} in {cwd.name}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy terraform/, so that no folder of Terraform's own appears in the source."""
    folder = tmp_path_factory.mktemp("terraform") / "terraform"
    shutil.copytree(TERRAFORM, folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars"))
    return folder


_ready: set[Path] = set()


def _prepared(folder: Path) -> Path:
    """Initialise a root once in the whole run: starting the provider is what takes the time."""
    mirror = _mirror()
    if folder not in _ready:
        _succeed(
            "terraform", "init", "-backend=false", "-input=false", "-no-color", f"-plugin-dir={mirror}", cwd=folder
        )
        _ready.add(folder)
    return folder


# --- Terraform's own checks -------------------------------------------------------------------------------------------


def test_format() -> None:
    _version()
    done = _run("terraform", "fmt", "-check", "-recursive", "-diff", "-no-color", cwd=TERRAFORM)
    assert done.returncode == 0, f"run `terraform fmt -recursive` in terraform/:\n{done.stdout}{done.stderr}"


@pytest.mark.timeout(2 * SECONDS)
def test_modules_are_valid_together(copy: Path) -> None:
    """Validate the example that has all modules in it: each root alone takes as long, and is a deep test."""
    name = "examples/complete"
    folder = _prepared(copy / name)
    used = json.loads((folder / ".terraform" / "modules" / "modules.json").read_text(encoding="utf-8"))["Modules"]
    assert {os.path.normpath(f"{name}/{module['Dir']}") for module in used} >= set(MODULES)
    told = json.loads(_succeed("terraform", "validate", "-json", cwd=folder))
    assert told["valid"] and told["diagnostics"] == []


@pytest.mark.timeout(2 * SECONDS)
def test_public_network_unencrypted_instance_and_tls_off_are_refused(copy: Path) -> None:
    folder = _prepared(copy / "examples" / "complete")
    told = _succeed("terraform", "test", "-no-color", "-filter=tests/refused.tftest.hcl", cwd=folder)
    assert "Success! 4 passed, 0 failed." in told


@pytest.mark.deep
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("name", ROOTS)
def test_valid(name: str, copy: Path) -> None:
    told = json.loads(_succeed("terraform", "validate", "-json", cwd=_prepared(copy / name)))
    assert told["valid"] and told["diagnostics"] == []


@pytest.mark.deep
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("name", ROOTS)
def test_own_tests(name: str, copy: Path) -> None:
    files = list((copy / name / "tests").glob("*.tftest.hcl"))
    runs = sum(len(re.findall(r'^run "', file.read_text(encoding="utf-8"), re.MULTILINE)) for file in files)
    told = _succeed("terraform", "test", "-no-color", cwd=_prepared(copy / name))
    assert f"Success! {runs} passed, 0 failed." in told
    assert runs >= 2


@pytest.mark.deep
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("exit_code", [0, 1])
def test_apply_runs_the_task_of_the_role_and_fails_with_it(exit_code: int, copy: Path, tmp_path: Path) -> None:
    """Apply for real, against the stand-in for AWS, with a stand-in for its CLI that says how the task has ended."""
    folder = _prepared(copy / "modules" / "readonly-role")
    given = (folder / "tests" / "readonly_role.tftest.hcl").read_text(encoding="utf-8").partition("\nrun ")[0]
    file = folder / "tests" / "applied.tftest.hcl"
    file.write_text(given.replace("apply_role         = false", "apply_role = true") + '\nrun "applied" {}\n', "utf-8")
    cli = tmp_path / "aws"
    cli.write_text(
        f"""#!/bin/sh
echo "$2 $CLUSTER" >>"{tmp_path}/calls"
case $2 in
    run-task) echo arn:aws:ecs:task/1 ;;
    describe-tasks) echo {exit_code} ;;
    get-log-events) echo "what the task has logged" ;;
esac
""",
        "utf-8",
    )
    cli.chmod(0o755)
    try:
        done = _run(
            *("terraform", "test", "-no-color", "-verbose", "-filter=tests/applied.tftest.hcl"),
            cwd=folder,
            PATH=f"{tmp_path}:{os.environ['PATH']}",
        )
    finally:
        file.unlink()
    told = done.stdout + done.stderr
    cluster = "arn:aws:ecs:eu-central-1:111122223333:cluster/shop"
    assert (tmp_path / "calls").read_text(encoding="utf-8").splitlines()[:2] == [
        f"run-task {cluster}",
        f"wait {cluster}",
    ]
    assert (done.returncode == 0) == (exit_code == 0), told
    assert exit_code == 0 or ("exit code 1" in told and "what the task has logged" in told), told


REFUSED = {
    "modules/network": ("clients_from_everywhere", "developer_from_everywhere", "clients_from_everywhere_by_ipv6"),
    "modules/rds": ("no_key", "tls_off"),
    "modules/readonly-role": ("tls_off",),
    "modules/sidecart": ("upstream_tls_off", "client_tls_off", "open_load_balancer"),
    "examples/existing-rds": ("unencrypted_instance", "public_instance"),
    "examples/complete": ("developer_at_every_address",),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_be_refused_has_a_test(name: str) -> None:
    tests = "".join(file.read_text(encoding="utf-8") for file in (TERRAFORM / name / "tests").iterdir())
    for what in REFUSED[name]:
        _, found, body = tests.partition(f'\nrun "{what}')
        assert found, f"{name} has no run {what}..."
        assert "expect_failures" in body.partition('\nrun "')[0]


# --- what the configuration says about SideCart -----------------------------------------------------------------------


def _text(folder: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in SOURCES if path.is_relative_to(TERRAFORM / folder))


def test_variables_of_the_container_are_sidecarts() -> None:
    known = set(ENVIRONMENT_NAMES) | {
        f"SIDECART_{section}_{key}".upper() for section, kind in SECTIONS.items() for key in kind.__dataclass_fields__
    }
    used = set(re.findall(r"\b((?:SIDECART|DB)_[A-Z_]+)\s+= ", _text("modules/sidecart")))
    used |= set(re.findall(r'name = "((?:SIDECART|DB)_[A-Z_]+)"', _text("modules/sidecart")))
    assert len(used) >= 18
    assert used - known == set()


def test_events_that_alarms_watch_are_written() -> None:
    events = set(re.findall(r'\$\.event = \\"([^"\\]+)\\"', _text("modules/sidecart")))
    assert {"refused", "lease failed", "upstream login failed", "bug"} <= events
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py"))
    assert [event for event in sorted(events) if f'"{event}"' not in source] == []


def test_no_rule_names_the_whole_internet() -> None:
    # A route says where answers go; it lets nobody in.
    blocks = re.findall(r'^resource "(\w+)" "\w+" \{\n(.*?)^\}', _text("."), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 60
    assert {kind for kind, body in blocks if "0.0.0.0/0" in body or "::/0" in body} == {"aws_route"}
    assert not any(kind in ("aws_security_group_rule", "aws_network_acl") for kind, _ in blocks)
    groups = [body for kind, body in blocks if kind == "aws_security_group"]
    assert groups and not any("ingress" in body or "egress" in body for body in groups)


def test_secrets_are_marked() -> None:
    marked = re.compile(r"^  sensitive\s+= true$", re.MULTILINE)
    for path in SOURCES:
        for kind, name, body in re.findall(
            r'^(variable|output) "(\w+)" \{\n(.*?)^\}', path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            holds = re.search(r"password$", name)
            assert bool(marked.search(body)) == bool(holds), f"{path.relative_to(ROOT)}: {kind} {name}"


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROOTS)
def test_page_names_every_variable_and_output(name: str) -> None:
    _, _, tables = (TERRAFORM / name / "README.md").read_text(encoding="utf-8").partition("\n## Variables\n")
    rows = re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)
    declared = re.findall(r'^(?:variable|output) "(\w+)"', _text(name), re.MULTILINE)
    assert sorted(rows) == sorted(declared)


@pytest.mark.parametrize("page", ["README.md", *(f"{name}/README.md" for name in ROOTS)])
def test_links_and_files_of_a_page_exist(page: str) -> None:
    path = TERRAFORM / page
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)\)", text):
        assert (path.parent / target).exists(), target
    for script in re.findall(r"[\w./-]*scripts/[\w-]+\.sh", text):
        assert any((folder / script).exists() for folder in (path.parent, TERRAFORM / "examples" / "complete")), script


@pytest.mark.parametrize("page", ["README.md", *(f"{name}/README.md" for name in ROOTS)])
def test_commands_of_a_page_name_what_exists(page: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (TERRAFORM / page).read_text(encoding="utf-8"), re.DOTALL)
    example = page.partition("/README")[0] if page.startswith("examples/") else "examples/complete"
    declared = set(re.findall(r'^variable "(\w+)"', _text(example), re.MULTILINE))
    required = set(re.findall(r'^variable "(\w+)" \{\n(?:(?!^\}|  default).*\n)*^\}', _text(example), re.MULTILINE))
    outputs = set(re.findall(r'^output "(\w+)"', _text(example), re.MULTILINE))
    for block in blocks:
        subprocess.run(["sh", "-n"], input=block, text=True, check=True, timeout=10)
        assert set(re.findall(r"terraform output -raw (\w+)", block)) <= outputs
        assert set(re.findall(r"-var (\w+)=", block)) <= declared
        assert set(re.findall(r"TF_VAR_(\w+)=", block)) <= declared
        for given in re.findall(r"<<'END'\n(.*?)^END$", block, re.DOTALL | re.MULTILINE):
            names = set(re.findall(r"^(\w+) +=", given, re.MULTILINE))
            assert required <= names <= declared


def test_nothing_of_terraforms_own_is_in_the_source() -> None:
    tracked = _run("git", "ls-files", "terraform", cwd=ROOT)
    if tracked.returncode != 0:
        pytest.skip("this is no checkout of git")
    names = tracked.stdout.splitlines()
    assert [name for name in names if ".terraform" in name or "tfstate" in name or name.endswith(".tfvars")] == []
