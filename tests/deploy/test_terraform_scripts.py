"""The scripts of terraform/: each runs for real, with stand-ins for aws, terraform, curl and chown on its PATH."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TERRAFORM = Path(__file__).parents[2] / "terraform"
APPLY_ROLE = TERRAFORM / "modules" / "readonly-role" / "scripts" / "apply-role.sh"
UPDATE_ADDRESS = TERRAFORM / "scripts" / "update-developer-address.sh"
USER_DATA = TERRAFORM / "modules" / "sidecart" / "templates" / "user-data.sh.tftpl"
SCRIPTS = sorted(TERRAFORM.rglob("scripts/*.sh"))


def stand_in(folder: Path, name: str, script: str) -> None:
    """Put a program of this name into `folder`; it notes how it was called, one line a call, in `calls`."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{folder}/calls"\n{script}\n', encoding="utf-8")
    path.chmod(0o755)


def run(script: Path, *arguments: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(script), *arguments],
        env={"PATH": f"{path}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_and_a_shells(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True, timeout=10)
    _shellcheck(script)


def _shellcheck(script: Path) -> None:
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


# --- the one-shot task ------------------------------------------------------------------------------------------------

TASK = "arn:aws:ecs:eu-central-1:111122223333:task/shop/0123456789"
ENVIRONMENT = {
    "AWS_REGION": "eu-central-1",
    "CLUSTER": "shop",
    "DATABASES": "app billing",
    "LOG_GROUP": "/ecs/shop/role",
    "SECURITY_GROUPS": "sg-05c",
    "SUBNETS": "subnet-0a,subnet-0b",
    "TASK_DEFINITION": "arn:aws:ecs:eu-central-1:111122223333:task-definition/shop-role:1",
}


def aws(folder: Path, *, started: str = f"{TASK}\\tNone", waited: int = 0, ended: str = "0\\tNone\\tNone") -> None:
    stand_in(
        folder,
        "aws",
        f"""
case "$1 $2" in
    "ecs run-task") printf '{started}\\n' ;;
    "ecs wait") exit {waited} ;;
    "ecs describe-tasks") printf '{ended}\\n' ;;
    "logs get-log-events") echo "the role sidecart_reader may read" ;;
    *) exit 64 ;;
esac""",
    )


def test_role_is_made_in_each_database_in_turn(tmp_path: Path) -> None:
    aws(tmp_path)
    done = run(APPLY_ROLE, path=tmp_path, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in calls(tmp_path)] == ["run-task", "wait", "describe-tasks", "get-log-events"] * 2
    started = [line for line in calls(tmp_path) if "run-task" in line]
    assert '"name":"DB_NAME","value":"app"' in started[0]
    assert '"name":"DB_NAME","value":"billing"' in started[1]
    assert all("assignPublicIp=DISABLED" in line for line in started)
    assert "--log-stream-name role/role/0123456789" in calls(tmp_path)[3]
    assert done.stdout.count("the role sidecart_reader may read") == 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ended": "1\\tEssential container in task exited\\tNone"}, "exit code 1"),
        ({"ended": "None\\tCannotPullContainerError\\tNone"}, "CannotPullContainerError"),
        ({"started": "None\\tRESOURCE:FARGATE"}, "RESOURCE:FARGATE"),
        ({"waited": 255}, "has not ended within ten minutes"),
    ],
    ids=["task fails", "image is missing", "ECS has no room", "task hangs"],
)
def test_failure_of_the_task_fails_the_apply(tmp_path: Path, how: dict[str, str], message: str) -> None:
    aws(tmp_path, **how)  # type: ignore[arg-type]
    done = run(APPLY_ROLE, path=tmp_path, **ENVIRONMENT)
    assert done.returncode == 1
    assert message in done.stderr
    assert sum("run-task" in line for line in calls(tmp_path)) == 1  # the second database is not tried


def test_missing_aws_cli_is_told(tmp_path: Path) -> None:
    for tool in ("sh", "cut"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    done = subprocess.run(
        ["sh", APPLY_ROLE], env={"PATH": str(tmp_path), **ENVIRONMENT}, capture_output=True, text=True, timeout=10
    )
    assert done.returncode == 1
    assert "The AWS CLI is not installed here." in done.stderr


# --- the developer's address ------------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    stand_in(folder, "curl", "echo 203.0.113.7")
    stand_in(folder, "terraform", "exit 0")
    (tmp_path / "root").mkdir()
    return folder


def test_address_is_asked_for_applied_and_kept(tools: Path) -> None:
    root = tools.parent / "root"
    done = run(UPDATE_ADDRESS, "-y", str(root), path=tools)
    assert done.returncode == 0, done.stderr
    assert (root / "developer.auto.tfvars").read_text(encoding="utf-8") == 'developer_cidr = "203.0.113.7/32"\n'
    assert calls(tools) == [
        "curl --ipv4 --fail --silent --show-error --max-time 10 https://checkip.amazonaws.com",
        f"terraform -chdir={root} apply -auto-approve"
        " -target=module.network.aws_vpc_security_group_ingress_rule.developer -var developer_cidr=203.0.113.7/32",
    ]
    assert "is now 203.0.113.7" in done.stdout
    assert "is still 203.0.113.7" in run(UPDATE_ADDRESS, "-y", str(root), path=tools).stdout


def test_resource_that_the_script_applies_exists() -> None:
    groups = (TERRAFORM / "modules" / "network" / "groups.tf").read_text(encoding="utf-8")
    assert 'resource "aws_vpc_security_group_ingress_rule" "developer"' in groups
    for example in ("complete",):
        main = (TERRAFORM / "examples" / example / "main.tf").read_text(encoding="utf-8")
        assert 'module "network"' in main and "developer_cidr = var.developer_cidr" in main


def test_address_is_not_kept_when_terraform_says_no(tools: Path) -> None:
    root = tools.parent / "root"
    (root / "developer.auto.tfvars").write_text('developer_cidr = "198.51.100.1/32"\n', encoding="utf-8")
    stand_in(tools, "terraform", "exit 1")
    done = run(UPDATE_ADDRESS, str(root), path=tools)
    assert done.returncode == 1
    assert "Terraform has not let 203.0.113.7 in." in done.stderr
    assert (root / "developer.auto.tfvars").read_text(encoding="utf-8") == 'developer_cidr = "198.51.100.1/32"\n'


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.0.0.0/0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.10",
        "224.0.0.1",
        "203.0.113.256",
        "203.0.113.07",
        "203.0.113",
        "203.0.113.7.8",
        "203.0.113.7 ",
        "203.0.113.7\n198.51.100.1",
        "2001:db8::1",
        '203.0.113.7" , "',
        "<html>",
    ],
)
def test_what_is_no_public_address_is_refused(tools: Path, address: str) -> None:
    root = tools.parent / "root"
    done = run(UPDATE_ADDRESS, "-y", "-a", address, str(root), path=tools)
    assert done.returncode == 1
    assert "is not a public IPv4 address" in done.stderr
    assert calls(tools) == []
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("arguments", [["-x"], ["one", "two"], ["no-such-folder"], ["-m", "a.b", "."]])
def test_wrong_options_are_refused(tools: Path, arguments: list[str]) -> None:
    done = run(UPDATE_ADDRESS, *arguments, path=tools)
    assert done.returncode == 2
    assert calls(tools) == []


# --- user data --------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, object] = {
    "environment": {"DB_HOST": "db.example.com", "SIDECART_LISTEN_TLS": "verify"},
    "image": "111122223333.dkr.ecr.eu-central-1.amazonaws.com/sidecart:1.0.0",
    "listen_verify": True,
    "log_group": "/sidecart/shop",
    "metadata_open": False,
    "region": "eu-central-1",
    "registry": "111122223333.dkr.ecr.eu-central-1.amazonaws.com",
    "secret": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:reader",
    "secret_stage": "0000-1111",
    "tls_directory": "/run/sidecart-tls",
    "tls_secret": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:tls",
    "users_secret": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:users",
}
PLAIN = {**SETTINGS, "listen_verify": False, "metadata_open": True, "registry": "", "tls_secret": "none"}


@functools.cache
def _rendered(settings: str, folder: Path) -> str:
    """Render the template as Terraform does; `terraform console` needs no provider for that."""
    expression = f"base64encode(templatefile({json.dumps(str(USER_DATA))}, {settings}))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        ["terraform", "console"],
        input=expression,
        cwd=folder,
        env={**environment, "TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return subprocess.run(
        ["base64", "-d"], input=done.stdout.strip().strip('"'), capture_output=True, text=True, check=True, timeout=10
    ).stdout


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on PATH")
    return tmp_path_factory.mktemp("console")


@pytest.fixture(params=[SETTINGS, PLAIN], ids=["all", "plain"])
def user_data(request: pytest.FixtureRequest, empty: Path) -> str:
    return _rendered(json.dumps(request.param), empty)


def files(user_data: str) -> dict[str, str]:
    """Return the files that the script writes, by their names."""
    found = re.findall(r"^cat >(\S+) <<'(\w+)'\n(.*?)^\2$", user_data, re.MULTILINE | re.DOTALL)
    return {Path(path).name: text for path, _, text in found}


def test_user_data_is_a_clean_script(user_data: str, tmp_path: Path) -> None:
    script = tmp_path / "user-data.sh"
    script.write_text(user_data, encoding="utf-8")
    subprocess.run(["bash", "-n", script], check=True, timeout=10)
    _shellcheck(script)
    assert user_data.startswith("#!/bin/bash\n")
    assert set(files(user_data)) >= {"sidecart.service", "sidecart-secrets.service", "sidecart-secrets", "sidecart.env"}
    json.loads(files(user_data)["amazon-cloudwatch-agent.json"])


def test_units_are_right_and_hardened(user_data: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on PATH")
    for name, text in files(user_data).items():
        # The helper is not where the unit says, on this machine.
        (tmp_path / name).write_text(text.replace("/usr/local/sbin/sidecart-secrets", "/bin/true"), encoding="utf-8")
    units = [str(tmp_path / name) for name in ("sidecart.service", "sidecart-secrets.service")]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60
    )
    assert [line for line in verified.stderr.splitlines() if "sidecart" in line] == []
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", units[0]],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unrecognized option" in judged.stderr:
        pytest.skip("this systemd-analyze judges no units offline")
    assert judged.returncode == 0, judged.stdout[-2000:]


def test_instance_keeps_its_credentials_to_itself_unless_it_logs_in_by_iam(empty: Path) -> None:
    assert "IPAddressDeny=169.254.169.254/32" in _rendered(json.dumps(SETTINGS), empty)
    assert "IPAddressDeny" not in _rendered(json.dumps(PLAIN), empty)


def test_secrets_reach_the_unit_as_they_are(empty: Path, tmp_path: Path) -> None:
    password = "a \"quoted\" pass\\word with $HOME, `id` and 'ticks'"
    users = {"alice": "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"}
    answers = {
        str(SETTINGS["secret"]): json.dumps({"username": "reader", "password": password}),
        str(SETTINGS["users_secret"]): json.dumps(users),
        str(SETTINGS["tls_secret"]): json.dumps({"certificate": "CERT", "private_key": "KEY", "client_ca": "CA"}),
    }
    for arn, answer in answers.items():
        (tmp_path / arn.rpartition(":")[2]).write_text(json.dumps(answer), encoding="utf-8")
    stand_in(tmp_path, "aws", f'while [ "$1" != --secret-id ]; do shift; done\ncat "{tmp_path}/${{2##*:}}"')

    folder = tmp_path / "run"
    script = files(_rendered(json.dumps(SETTINGS), empty))["sidecart-secrets"]
    script = script.replace("/run/sidecart-secrets", str(folder))
    # Only root may give files away.
    script = "import os\nowners = {}\nos.chown = lambda path, uid, gid: owners.update({path: uid})\n" + script
    script += "\nimport sys\nsys.stdout.write(json.dumps(owners))\n"
    for _ in range(2):  # the second time over what the first one left
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
    assert password not in done.stdout + done.stderr

    # systemd takes \\ \" \` and \$ within double quotes, as a shell does.
    given = dict(item.split("=", 1) for item in shlex.split((folder / "sidecart.env").read_text(encoding="utf-8")))
    assert given["DB_READONLY_PASSWORD"].replace("\\$", "$").replace("\\`", "`") == password
    assert json.loads(given["SIDECART_AUTH_USERS"].replace("\\$", "$")) == users
    assert (folder / "tls" / "private_key.pem").read_text(encoding="utf-8") == "KEY"
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o400}
    owners = {Path(path).name: uid for path, uid in json.loads(done.stdout).items()}
    assert owners == {"sidecart.env": 0, "certificate.pem": 65532, "private_key.pem": 65532, "client_ca.pem": 65532}
    assert "--version-id 0000-1111" in calls(tmp_path)[0]
