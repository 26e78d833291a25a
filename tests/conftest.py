import pytest
from hub_server import HubServer


@pytest.fixture(scope="session")
def hub():
    """Yields a Hub on loopback, see `hub_server`."""
    with HubServer() as hub:
        yield hub
    assert not [request for request in hub.requests if request.status == 501], "there were requests that the Hub does not know"
