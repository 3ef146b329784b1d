"""The role's password: its sources, what is fetched again and when, and that it never shows."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from moto import mock_aws

from proxy.config.schema import Upstream
from proxy.databases import aws
from proxy.databases.aws import Aws, AwsError, read_secret
from proxy.databases.credentials import AGAIN, MAX_PASSWORD, Credentials, Secret
from proxy.errors import ConfigError, UpstreamError
from proxy.stats import Stats
from proxy.tasks import Tasks

T = TypeVar("T")

UPSTREAM = Upstream(host="db.example.test", user="reader")
RDS = "shop.cluster-ro-c1x2.eu-central-1.rds.amazonaws.com"


class Keeper:
    """Credentials with a clock that the test moves."""

    def __init__(self, service: object = None, **keys: Any) -> None:
        self.now = 1000.0
        self.stats = Stats()
        self.credentials = Credentials(
            replace(UPSTREAM, **keys),
            self.stats,
            Tasks(),
            lambda: self.now,
            {},
            service,  # type: ignore[arg-type]
        )


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def failure(keeper: Keeper) -> UpstreamError:
    with pytest.raises(UpstreamError, match=r"^SideCart could not get the password of its role$") as caught:
        run(keeper.credentials.get())
    assert caught.value.transient
    assert keeper.credentials.current is None
    return caught.value


# --- password and password_file ---------------------------------------------------------------------------------------


def test_fixed_password() -> None:
    keeper = Keeper(password="fixed")
    assert keeper.credentials.current == Secret("reader", "fixed")
    assert run(keeper.credentials.get()) == Secret("reader", "fixed")
    assert run(keeper.credentials.get_again(Secret("reader", "fixed"))) is None
    keeper.credentials.accepted(Secret("reader", "fixed"))
    assert not keeper.credentials.rotates


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"secret\n\n", "secret\n"),
        (b" sec ret ", " sec ret "),
        ("geheimnüs\n".encode(), "geheimnüs"),
        (b"\xff\xfe", "\udcff\udcfe"),
    ],
)
def test_password_file(content: bytes, password: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(0o600)
    assert run(Keeper(password_file=str(path)).credentials.get()).password == password


def test_password_file_is_read_for_each_connection(tmp_path: Path) -> None:
    path = tmp_path / "password"
    keeper = Keeper(password_file=str(path))
    for password in ("one", "two"):
        path.write_text(password)
        path.chmod(0o600)
        assert run(keeper.credentials.get()).password == password


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "is empty"), (b"\n", "is empty"), (b"x" * (MAX_PASSWORD + 1), "more than 65536 bytes")]
)
def test_password_file_that_holds_no_password(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(0o600)
    assert why in failure(Keeper(password_file=str(path))).cause


def test_password_file_that_is_not_there(tmp_path: Path) -> None:
    error = failure(Keeper(password_file=str(tmp_path / "none")))
    assert error.cause == f"upstream.password_file '{tmp_path / 'none'}' cannot be read: No such file or directory"
    assert "none" not in str(error)


def test_rotation_of_a_file_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("old")
    path.chmod(0o600)
    keeper = Keeper(password_file=str(path))
    old = run(keeper.credentials.get())
    keeper.credentials.accepted(old)
    assert run(keeper.credentials.get_again(old)) is None
    path.write_text("new")
    assert run(keeper.credentials.get_again(old)) == Secret("reader", "new")
    assert keeper.credentials.current == old  # until the server has accepted the other
    assert keeper.credentials.rotates


# --- password_command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "why"), [("vault 'read", "without its counterpart"), ("   ", "names no program"), ("\\", "counterpart")]
)
def test_command_that_cannot_be_read(command: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Keeper(password_command=command).credentials.check()


# --- Secrets Manager --------------------------------------------------------------------------------------------------


class Vault:
    """Stand for `Aws`: count the calls."""

    def __init__(self, *answers: tuple[str, str] | AwsError) -> None:
        self.answers = list(answers)
        self.calls = 0

    def secret(self) -> tuple[str, str]:
        self.calls += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, AwsError):
            raise answer
        return answer


def test_secret_is_fetched_once() -> None:
    vault = Vault(("", "one"))
    keeper = Keeper(vault, aws_secret="shop")

    async def work() -> list[Secret]:
        first = await asyncio.gather(*(keeper.credentials.get() for _ in range(8)))
        return [*first, await keeper.credentials.get()]

    assert set(run(work())) == {Secret("reader", "one")}
    assert vault.calls == 1
    assert keeper.stats.credential_fetches["aws_secret", "ok"] == 1


def test_secret_names_its_user() -> None:
    """RDS can rotate two users in turn."""
    assert run(Keeper(Vault(("reader_clone", "two")), aws_secret="shop").credentials.get()).user == "reader_clone"


def test_attack_secret_of_another_role_is_not_used() -> None:
    """The master user's secret, named by mistake: SideCart must not become the owner of everything."""
    error = failure(Keeper(Vault(("postgres", "two")), aws_secret="shop"))
    assert "is that of the role 'postgres', and upstream.user is 'reader'" in error.cause
    assert "two" not in error.cause


def test_refused_secret_is_fetched_again_once_for_all() -> None:
    vault = Vault(("", "old"), ("", "new"))
    keeper = Keeper(vault, aws_secret="shop")

    async def work() -> list[Secret | None]:
        old = await keeper.credentials.get()
        first = await asyncio.gather(*(keeper.credentials.get_again(old) for _ in range(8)))
        return [*first, await keeper.credentials.get_again(old)]

    assert set(run(work())) == {Secret("reader", "new")}
    assert vault.calls == 2


def test_wrong_secret_makes_no_storm_of_calls() -> None:
    vault = Vault(("", "wrong"))
    keeper = Keeper(vault, aws_secret="shop")
    wrong = run(keeper.credentials.get())
    for _ in range(100):
        assert run(keeper.credentials.get_again(wrong)) is None
    assert vault.calls == 2
    keeper.now += AGAIN
    assert run(keeper.credentials.get_again(wrong)) is None
    assert vault.calls == 3


def test_secret_is_fetched_anew_after_a_reload() -> None:
    vault = Vault(("", "old"), ("", "new"))
    keeper = Keeper(vault, aws_secret="shop")
    run(keeper.credentials.get())
    keeper.credentials.forget()
    assert run(keeper.credentials.get()).password == "new"


def test_secret_that_cannot_be_had() -> None:
    keeper = Keeper(Vault(AwsError("AWS secretsmanager: AccessDeniedException: no")), aws_secret="shop")
    assert failure(keeper).cause == "AWS secretsmanager: AccessDeniedException: no"
    assert keeper.stats.credential_fetches["aws_secret", "failed"] == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain", ("", "plain")),
        ("{not json", ("", "{not json")),
        ('{"username": "reader", "password": "p", "host": "h", "port": 5432}', ("reader", "p")),
        ('{"password": "p"}', ("", "p")),
    ],
)
def test_layouts_of_a_secret(text: str, found: tuple[str, str]) -> None:
    assert read_secret(text) == found


@pytest.mark.parametrize("text", ['{"username": "sesame"}', '{"password": 7, "x": "sesame"}', '{"password": ""}'])
def test_secret_without_a_password(text: str) -> None:
    with pytest.raises(AwsError, match='without a text "password"') as caught:
        read_secret(text)
    assert "sesame" not in str(caught.value)


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Stand for Amazon, in this process: nothing leaves it. Return a client of Secrets Manager."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        import boto3

        yield boto3.client("secretsmanager", region_name="eu-central-1")


def service(**keys: Any) -> Aws:
    return Aws(replace(UPSTREAM, **keys), {})


def test_secret_of_secrets_manager(amazon: Any) -> None:
    layout = {"username": "reader", "password": "p1", "engine": "postgres", "host": "h", "port": 5432}
    arn = amazon.create_secret(Name="shop", SecretString=json.dumps(layout))["ARN"]
    by_name = service(aws_secret="shop", aws_region="eu-central-1")
    by_arn = service(aws_secret=arn)  # which tells the region
    assert by_name.secret() == by_arn.secret() == ("reader", "p1")
    amazon.put_secret_value(SecretId="shop", SecretString=json.dumps(layout | {"password": "p2"}))
    assert by_name.secret() == by_arn.secret() == ("reader", "p2")


def test_rotation_in_secrets_manager(amazon: Any) -> None:
    amazon.create_secret(Name="shop", SecretString="p1")
    keeper = Keeper(service(aws_secret="shop", aws_region="eu-central-1"), aws_secret="shop")
    old = run(keeper.credentials.get())
    amazon.put_secret_value(SecretId="shop", SecretString="p2")
    assert run(keeper.credentials.get()) == old == Secret("reader", "p1")
    assert run(keeper.credentials.get_again(old)) == Secret("reader", "p2")
    assert run(keeper.credentials.get()) == Secret("reader", "p2")


def test_secret_that_does_not_exist(amazon: Any) -> None:
    with pytest.raises(AwsError, match="AWS secretsmanager: ResourceNotFoundException"):
        service(aws_secret="none", aws_region="eu-central-1").secret()


def test_secret_of_bytes(amazon: Any) -> None:
    amazon.create_secret(Name="shop", SecretBinary=b"p1")
    with pytest.raises(AwsError, match="store the password as text"):
        service(aws_secret="shop", aws_region="eu-central-1").secret()


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_token_is_made_for_the_host_the_port_and_the_user(amazon: Any) -> None:
    token = service(aws_iam=True, host=RDS).token()
    parts = urlsplit(f"https://{token}")
    words = parse_qs(parts.query)
    assert parts.netloc == f"{RDS}:5432"
    assert words["DBUser"] == ["reader"]
    assert words["X-Amz-Expires"] == ["900"]
    assert "/eu-central-1/rds-db/" in words["X-Amz-Credential"][0]


def test_each_connection_has_a_token_of_its_own() -> None:
    class Mint:
        made = 0

        def token(self) -> str:
            self.made += 1
            return f"token {self.made}"

    keeper = Keeper(Mint(), aws_iam=True)
    assert [run(keeper.credentials.get()).password for _ in range(2)] == ["token 1", "token 2"]
    assert run(keeper.credentials.get_again(Secret("reader", "token 2"))) is None
    keeper.credentials.accepted(Secret("reader", "token 2"))
    assert keeper.credentials.current is None  # a token is nobody's password


def test_token_without_a_region(amazon: Any) -> None:
    with pytest.raises(AwsError, match=r"the host db.example.test does not tell it, so set upstream.aws_region"):
        service(aws_iam=True).token()


def test_token_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(AwsError, match="AWS rds: Unable to locate credentials"):
        service(aws_iam=True, host=RDS).token()


@pytest.mark.parametrize(
    ("keys", "environ", "expected"),
    [
        ({"host": RDS}, {"AWS_REGION": "us-east-1"}, "eu-central-1"),
        ({"host": RDS.upper() + "."}, {}, "eu-central-1"),
        ({"host": "db.c1x2.us-gov-west-1.rds.amazonaws.com"}, {}, "us-gov-west-1"),
        ({"host": "db.c1x2.rds.cn-north-1.amazonaws.com.cn"}, {}, "cn-north-1"),
        ({"host": "db.example.com"}, {"AWS_DEFAULT_REGION": "us-east-1"}, "us-east-1"),
        ({"host": "db.example.com"}, {"AWS_REGION": "us-east-2", "AWS_DEFAULT_REGION": "us-east-1"}, "us-east-2"),
        ({"host": "db.example.com"}, {}, ""),
        ({"host": RDS, "aws_region": "us-west-2"}, {}, "us-west-2"),
        ({"host": RDS, "aws_secret": "arn:aws:secretsmanager:sa-east-1:1:secret:x"}, {}, "sa-east-1"),
        ({"host": RDS, "aws_secret": "shop"}, {}, "eu-central-1"),
    ],
)
def test_region(keys: dict[str, str], environ: dict[str, str], expected: str) -> None:
    assert aws.region(replace(UPSTREAM, **keys), environ) == expected


@pytest.mark.parametrize("keys", [{"aws_secret": "shop"}, {"aws_iam": True}])
def test_missing_extra_is_named_at_start(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Keeper(**keys).credentials.check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"upstream.{next(iter(keys))} needs boto3.*pip install 'sidecart\[aws\]'"):
        Keeper(**keys).credentials.check()
    Keeper(password="p").credentials.check()


def test_secrets_do_not_show() -> None:
    assert "sesame" not in repr(Secret("reader", "sesame"))
    keeper = Keeper(password="sesame")
    assert "sesame" not in repr(keeper.credentials) + repr(keeper.credentials.current)
