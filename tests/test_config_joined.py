"""A cluster of members as one with copies, and settings with which no gateway can be a member."""

import pytest

from sfss.config import Settings
from sfss.config_joined import bound, joined_settings, members_of
from sfss.config_reading import load
from sfss.errors import SettingError
from sfss.member_state import State
from sfss.members import Member, alone

SECRET = "0123456789abcdef"
PAGE = """
[cluster]
kind = "joined"
[discovery]
advertise = "127.0.0.1:7955"
"""
OWN, OTHER = Member("127.0.0.1:7955", "a" * 32), Member("127.0.0.1:7956", "b" * 32)


def settings(more: str = "", **environ: str) -> Settings:
    return load(PAGE + more, "page", environ)


def test_the_stores_are_those_of_the_members() -> None:
    page = settings('secret = "0123456789abcdef"\nheartbeat_s = 0.5')
    found = joined_settings(page, State(OWN.store, alone(OWN).joined(OTHER)), "live")
    assert found.cluster.kind == "replicated"
    assert found.replicated.stores == (OWN.address, OTHER.address)
    assert found.replicated.former_stores == (OWN.address,)
    assert (found.replicated.roster, found.replicated.roster_check_s) == ("live", 0.5)
    assert found.memcached.secret == SECRET


def test_who_knows_of_no_cluster_is_alone() -> None:
    found = joined_settings(settings(), State(OWN.store), "live")
    assert found.replicated.stores == (OWN.address,)
    assert found.replicated.roster == ""
    assert members_of(settings(), State(OWN.store)) == (OWN.address,)


def test_members_are_listened_to_on_the_last_address() -> None:
    assert [each.address for each in bound(settings())] == ["127.0.0.1:8255", "127.0.0.1:7955"]
    elsewhere = settings('listen = "127.0.0.2:1"')
    assert [each.address for each in bound(elsewhere)] == ["127.0.0.1:8255", "127.0.0.2:1"]
    assert [each.address for each in bound(Settings())] == ["127.0.0.1:8255"]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("", ""),
        ('advertise = "10.0.0.1:7955"', "discovery.secret: is empty, and discovery.advertise"),
        ('listen = "0.0.0.0:7955"', "discovery.secret: is empty, and discovery.listen"),
        ('listen = "host.example:7955"', "discovery.secret: is empty"),
        ('listen = "localhost:7955"', ""),
        ('listen = "[::1]:7955"', ""),
        ('advertise = ""', "discovery.advertise: is empty"),
        ('advertise = "7955"', 'discovery.advertise: is "7955"; "host:port"'),
        ('join = ["10.0.0.1"]', "discovery.join"),
        ('secret = "short"', "discovery.secret"),
        ('[replicated]\nstores = ["127.0.0.1:1"]', "replicated.stores: is not used"),
        ("[replicated]\nfirst_decides = true", "replicated.first_decides: is not used"),
        ("[memcached]\nraw = true", "memcached.raw: is true; copies need versions"),
    ],
)
def test_which_settings_make_a_member(more: str, complaint: str) -> None:
    page = PAGE.replace('advertise = "127.0.0.1:7955"\n', "") if "advertise" in more else PAGE
    if not complaint:
        load(page + more, "page")
        return
    with pytest.raises(SettingError) as caught:
        load(page + more, "page")
    assert complaint in str(caught.value)
    assert "short" not in str(caught.value)
