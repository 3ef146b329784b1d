"""Files that the configuration names: what is opened, what is read, and what is refused without a wait."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from proxy.system import environment, files
from proxy.system.files import FileError


def secret(folder: Path, mode: int = 0o600) -> str:
    path = folder / "secret"
    path.write_bytes(b"content")
    path.chmod(mode)
    return str(path)


def test_what_is_read(tmp_path: Path) -> None:
    path = secret(tmp_path, 0o644)
    assert files.read(path) == b"content"
    (tmp_path / "link").symlink_to("secret")  # as Kubernetes shows the files of a secret
    assert files.read(str(tmp_path / "link")) == b"content"
    assert files.read(path, 7) == b"content"
    with pytest.raises(FileError, match=r"^holds more than 6 bytes$"):
        files.read(path, 6)


@pytest.mark.parametrize("private", [False, True])
def test_attack_fifo_that_would_hold_whoever_opens_it(tmp_path: Path, private: bool) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path, 0o600)
    with pytest.raises(FileError, match=r"^is no regular file$"):
        files.read(path, private=private)
    with pytest.raises(FileError, match=r"^cannot be opened: "):  # nobody reads it
        files.append(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(FileError, match=r"^is no regular file$"):
            files.append(path)
        with pytest.raises(FileError, match=r"^is no regular file$"):
            files.read(path, private=private)
    finally:
        os.close(reader)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/tty", "/"])
def test_attack_device_in_the_place_of_a_file(path: str) -> None:
    with pytest.raises(FileError, match=r"is no regular file|cannot be read: "):
        files.read(path)
    with pytest.raises(FileError, match=r"is no regular file|cannot be opened: "):
        files.append(path)


@pytest.mark.parametrize(
    ("name", "why"),
    [("none", "No such file or directory"), ("a\0b", "not a file name"), ("", "No such file")],
)
def test_what_cannot_be_read_says_why(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=f"^cannot be read: {why}"):
        files.read(f"{tmp_path}/{name}" if name else "")


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o660, 0o604, 0o620, 0o601])
def test_attack_secret_that_others_may_read_or_write(mode: int, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=rf"^must belong .* permissions are {mode:04o}$"):
        files.read(secret(tmp_path, mode), private=True)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_secret_of_its_own(mode: int, tmp_path: Path) -> None:
    assert files.read(secret(tmp_path, mode), private=True) == b"content"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_secret_of_root_and_of_somebody_else(tmp_path: Path) -> None:
    assert files.read(secret(tmp_path, 0o640), private=True) == b"content"
    path = secret(tmp_path)
    os.chown(path, 1234, 1234)
    with pytest.raises(FileError, match=r"^must belong to the user"):
        files.read(path, private=True)
    with pytest.raises(FileError, match=r"^must belong to the user"):
        files.append(path)


def test_log_is_made_for_its_owner_alone_and_written_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for line in (b"one\n", b"two\n"):
        descriptor = files.append(str(path))
        os.write(descriptor, line)
        os.close(descriptor)
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for mode in (0o644, 0o640, 0o660):  # as logrotate may make it
        path.chmod(mode)
        os.close(files.append(str(path)))
    path.chmod(0o602)
    with pytest.raises(FileError, match=r"others must not be able to write to it; its permissions are 0602$"):
        files.append(str(path))


def test_attack_link_at_the_place_of_the_log(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for name, target in (("to-a-file", victim), ("to-nothing", tmp_path / "none")):
        victim.write_bytes(b"precious")
        (tmp_path / name).symlink_to(target)
        with pytest.raises(FileError, match=r"^cannot be opened: it is a symbolic link$"):
            files.append(str(tmp_path / name))
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "none").exists()


def test_environment_of_other_programs_holds_no_secrets() -> None:
    given = {"PATH": "p", "HOME": "h", "LC_ALL": "C", "DB_ADMIN_PASSWORD": "x", "AWS_PROFILE": "a", "VAULT_TOKEN": "v"}
    assert environment.small(given) == {"PATH": "p", "HOME": "h", "LC_ALL": "C"}
    assert environment.small(given, ["VAULT_TOKEN"], ("AWS_",)).keys() == given.keys() - {"DB_ADMIN_PASSWORD"}
