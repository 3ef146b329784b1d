"""Ask Amazon for the role's password: a secret of Secrets Manager, or a token of RDS's IAM authentication.

boto3 comes with the extra `aws` and is imported when it is needed. Every function here may wait for the network: they
are called in threads. Where Amazon's own credentials come from is boto3's affair (environment, profile, instance role).
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.config.schema import Upstream
from proxy.errors import ConfigError

_RDS_HOST: Final = re.compile(
    r"\.([a-z]{2,3}(?:-[a-z]+)+-\d+)\.rds\.amazonaws\.com|\.rds\.([a-z]{2,3}(?:-[a-z]+)+-\d+)\.amazonaws\.com\.cn"
)
_ARN: Final = re.compile(r"arn:aws[\w-]*:secretsmanager:([\w-]+):")
_REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 5
ATTEMPTS: Final = 2
"""An answer takes 16 seconds at most: whoever waits for it is told then."""


class AwsError(Exception):
    """Amazon gave nothing that can be used; the text, for the operator, says why and holds no secret."""


def check(config: Upstream) -> None:
    """Raise ConfigError if the configuration needs boto3, and it is not installed."""
    key = "aws_secret" if config.aws_secret else "aws_iam" if config.aws_iam else ""
    if key and importlib.util.find_spec("boto3") is None:
        raise ConfigError(f"upstream.{key} needs boto3, which is not installed: pip install 'sidecart[aws]'.")


def region(config: Upstream, environ: Mapping[str, str]) -> str:
    """Return the region that is configured, or that a name tells; empty: boto3 may know one from a profile."""
    if config.aws_region:
        return config.aws_region
    if config.aws_secret and (found := _ARN.match(config.aws_secret)):
        return found[1]
    if found := _RDS_HOST.search(config.host.lower().rstrip(".")):
        return found[1] or found[2]
    return next((environ[name] for name in _REGION_VARIABLES if environ.get(name)), "")


class Aws:
    """Hold the clients of boto3 for one upstream: making one takes some tenths of a second."""

    def __init__(self, config: Upstream, environ: Mapping[str, str]) -> None:
        self._config = config
        self._region = region(config, environ)
        self._clients: dict[str, Any] = {}

    def secret(self) -> tuple[str, str]:
        """Return the user (empty: the secret names none) and the password that the secret holds now.

        A secret is the password itself, or JSON in the layout of RDS's own: {"username": ..., "password": ..., ...}.
        Raises AwsError.
        """
        answer = self._ask("secretsmanager", "get_secret_value", SecretId=self._config.aws_secret)
        text = answer.get("SecretString")
        if not text:
            raise AwsError("the secret of upstream.aws_secret has no text, but bytes: store the password as text")
        return read_secret(text)

    def token(self) -> str:
        """Return a token that is a password for a login within 15 minutes. Raises AwsError."""
        token = self._ask(
            "rds",
            "generate_db_auth_token",
            DBHostname=self._config.host,
            Port=self._config.port,
            DBUsername=self._config.user,
        )
        return str(token)

    def _ask(self, service: str, method: str, **arguments: object) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

        try:
            return getattr(self._client(service), method)(**arguments)
        except NoRegionError:
            raise AwsError(
                f"the AWS region is unknown: the host {self._config.host} does not tell it, so set upstream.aws_region"
                " (or AWS_REGION)"
            ) from None
        except ClientError as error:
            said = error.response.get("Error", {})
            raise AwsError(f"AWS {service}: {said.get('Code', 'error')}: {said.get('Message', '')}"[:500]) from error
        except (BotoCoreError, ValueError) as error:
            raise AwsError(f"AWS {service}: {error}"[:500]) from error

    def _client(self, service: str) -> Any:
        client = self._clients.get(service)
        if client is None:
            import boto3
            from botocore.config import Config

            limits = Config(
                connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": ATTEMPTS}
            )
            session = boto3.session.Session(region_name=self._region or None)
            client = self._clients[service] = session.client(service, config=limits)
        return client


def read_secret(text: str) -> tuple[str, str]:
    """Return user and password of a secret's text. Raises AwsError, whose text shows nothing of it."""
    if not text.lstrip().startswith("{"):
        return "", text
    try:
        parts = json.loads(text)
    except ValueError:
        return "", text  # a password may begin with a brace
    user, password = parts.get("username", ""), parts.get("password", "")
    if not isinstance(user, str) or not isinstance(password, str) or not password:
        raise AwsError('the secret of upstream.aws_secret is JSON without a text "password"')
    return user, password
