"""Unit tests reach nothing: sockets are closed."""

import pytest
from pytest_socket import disable_socket, enable_socket


@pytest.fixture(autouse=True)
def _closed_sockets():
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
