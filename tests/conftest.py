import pytest
from hub_server import HubServer


@pytest.fixture(scope="session")
def hub():
    """A Hub on loopback, see `hub_server`."""
    with HubServer() as hub:
        yield hub
    assert not [request for request in hub.requests if request.status == 501], "the Hub was asked what it does not know"
