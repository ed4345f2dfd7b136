"""What `python -m cluster s3` writes before it starts a server, and which ports it refuses."""

import socket
import subprocess
from pathlib import Path

import pytest

from cluster.ports import free_ports
from cluster.s3 import LARGEST_PORT, SETTINGS, open_server
from cluster.seaweed import GRPC_OFFSET
from langalign.errors import ConfigError


@pytest.mark.parametrize("port", [-1, 0, LARGEST_PORT + 1, 99_999])
def test_a_port_that_cannot_be_is_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(ConfigError, match=f"port {port}: give one from 1 to 55535"):
        open_server(tmp_path, port)
    assert not (tmp_path / SETTINGS).exists()


def test_the_grpc_port_that_goes_with_it_must_be_free(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + GRPC_OFFSET))
        other.listen()
        with pytest.raises(ConfigError, match=f"port {port + GRPC_OFFSET} is in use"):
            open_server(tmp_path, port)


def test_no_part_has_the_port_of_another(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    ports = open_server(tmp_path, port).ports.values()
    assert port in ports
    assert len({each + offset for each in ports for offset in (0, GRPC_OFFSET)}) == 2 * len(ports)


def test_in_a_folder_that_others_can_read_they_read_no_key_and_no_data(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "s3.json").touch()  # as a careless copy leaves it
    (tmp_path / "s3.json").chmod(0o644)
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    (port,) = free_ports(1)
    open_server(tmp_path, port)
    modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
    assert {name for name, others in modes.items() if others} == {".gitignore"}


def test_git_sees_nothing_of_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (port,) = free_ports(1)
    open_server(tmp_path / "store", port)
    command = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_a_gitignore_of_yours_stays(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    (port,) = free_ports(1)
    open_server(tmp_path, port)
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


def test_settings_of_another_program_are_named(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(ConfigError, match="is not as this command wrote it"):
        open_server(tmp_path)
