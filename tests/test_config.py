"""Settings: what is taken from where, what is refused in which words, that samples are true."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from sfss.checks import read_shard
from sfss.config import DECLARATIONS, Settings
from sfss.config_checks import addresses_of, has_plain_files, least_copies, migrates
from sfss.config_reading import load
from sfss.config_text import as_table, as_toml
from sfss.errors import SettingError
from sfss.listening import Listen
from sfss.service import make_scheme
from tests.servers import CHECKOUT

CONF = CHECKOUT / "conf"


MIGRATION = "[migration]\n"
FILES = (
    "[cluster]\nkind = 'replicated'\n"
    "[replicated]\nplacement = 'jump'\nshards = ['one http://a:1/ http://b:1/', 'two http://c:1/']\n"
)
REPLICATED = "[cluster]\nkind = 'replicated'\n[replicated]\nstores = ['a:1', 'b:1', 'c:1', 'd:1']\n"
NEAR = "[replicated]\nplacement = 'mirror'\nstores = [{}]\n[cluster]\nkind = 'replicated'\n"
NEAR_OF_LARGE = NEAR + "max_file_size = 1073741824\n"
BLOBS = """[server]
faces = [{}]
[cluster]
kind = 'replicated'
[replicated]
placement = 'mirror'
{}
"""
BLOB_GROUPS = BLOBS.format("'fetch'", "shards = [{}]").replace("'mirror'", "'groups'")
SHARDS = "[cluster]\nkind = 'replicated'\n[replicated]\nplacement = 'jump'\nshards = [{}]"
LISTEN = "[[listen]]\naddress = 'A:1'\n"
PATHS = LISTEN + "faces = ['paths']\n"
CLUSTERS = """
[server]
port = 1
workers = 2
[clusters.one.server]
port = 11
[clusters.two.server]
port = 22
"""


def test_defaults() -> None:
    settings = load()
    assert settings == Settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8255)
    assert settings.cluster.max_file_size == 2_097_152


def test_the_file_the_environment_and_the_command_line_in_rising_order() -> None:
    text = "[server]\nport = 1\nworkers = 2\nhost = 'a'"
    environ = {"SFSS_SERVER_PORT": "3", "SFSS_SERVER_WORKERS": "4", "PATH": "/bin"}
    settings = load(text, "file", environ, {"server.port": 5})
    assert (settings.server.port, settings.server.workers, settings.server.host) == (5, 4, "a")


@pytest.mark.parametrize(
    ("variable", "text", "section", "name", "value"),
    [
        ("SFSS_SERVER_PORT", "80", "server", "port", 80),
        ("SFSS_SERVER_ACCESS_LOG", "true", "server", "access_log", True),
        ("SFSS_SERVER_KEEPALIVE_TIMEOUT_S", "1.5", "server", "keepalive_timeout_s", 1.5),
        ("SFSS_EMBEDDED_FOLDER", "/x y", "embedded", "folder", "/x y"),
        ("SFSS_MEMCACHED_SERVERS", "a:1, [::1]:2", "memcached", "servers", ("a:1", "[::1]:2")),
    ],
)
def test_every_type_from_the_environment(
    variable: str, text: str, section: str, name: str, value: object
) -> None:
    settings = load(environ={variable: text})
    assert getattr(getattr(settings, section), name) == value


def test_each_setting_has_a_variable_of_its_own() -> None:
    assert len({declaration.variable for declaration in DECLARATIONS.values()}) == len(DECLARATIONS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1", ["server.prot", "unknown", "server.port"]),
        ("[sever]\nport = 1", ["[sever]", "unknown", "server"]),
        ("server = 1", ["server", "is 1", "[server]"]),
        ("[server]\nport = '80'", ["server.port", 'is "80";', "a number from 1 to 65535"]),
        ("[server]\nport = 70000", ["server.port", "70000", "65535"]),
        ("[server]\nport = true", ["server.port", "is true"]),
        ("[server]\nport = 1.0", ["server.port", "1.0"]),
        ("[server]\nworkers = 0", ["server.workers", "0"]),
        ("[server]\nhost = ''", ["server.host", "not empty"]),
        ("[server]\nlog_level = 'loud'", ["server.log_level", "loud", '"debug"']),
        ("[server]\nkeepalive_timeout_s = nan", ["server.keepalive_timeout_s", "nan"]),
        ("[server]\nkeepalive_timeout_s = inf", ["server.keepalive_timeout_s", "inf"]),
        ("[cluster]\nkind = 'ring'", ["cluster.kind", "ring", '"embedded"']),
        ("[cluster]\nkind = 'nodes'", ["memcached.servers", "nodes"]),
        ("[memcached]\nservers = ['a']", ["memcached.servers", '"host:port"']),
        ("[memcached]\nservers = ['a:0']", ["memcached.servers", '"host:port"']),
        ("[memcached]\nservers = ['a:1', 'a:1']", ["memcached.servers", "different"]),
        ("[memcached]\nservers = [1]", ["memcached.servers"]),
        ("[memcached]\nservers = 'a:1'", ["memcached.servers"]),
        ("[server", ["syntax", "TOML"]),
        (f"[server]\nport = {'1' * 5000}", ["syntax", "digits", "TOML"]),
        ("[server]\nport = " + "[" * 100_000, ["syntax", "TOML"]),
        ("[cluster]\nkind = 'replicated'", ["replicated.stores", "is empty", "ketama"]),
        (REPLICATED + "placement = 'jump'", ["replicated.shards", "is empty", "jump"]),
        (REPLICATED + "shards = ['one a:1']", ["replicated.shards", "is not used", "ketama"]),
        (REPLICATED + "former_shards = ['one a:1']", ["replicated.former_shards", "is not used"]),
        (REPLICATED + "copies = 5", ["replicated.copies", "is 5", "there are 4 stores"]),
        (REPLICATED + "tombstone_days = 1e300", ["replicated.tombstone_days", "36500"]),
        ("[memcached]\nservers = ['a:1', 'A:01']", ["memcached.servers", "different"]),
        ("[memcached]\nservers = ['a:\u0661']", ["memcached.servers", '"host:port"']),
        (SHARDS.format("'one a:1', 'two A:1'"), ["replicated.shards", "stores different"]),
        (REPLICATED + "write_quorum = 4", ["replicated.write_quorum", "is 4", "at most 3"]),
        (REPLICATED + "copies = 2\nread_quorum = 3", ["replicated.read_quorum", "at most 2"]),
        (REPLICATED + "[memcached]\nraw = true", ["memcached.raw", "is true"]),
        (
            "[server]\nfaces = ['upload']\n[cluster]\nkind = 'nodes'\n"
            "[memcached]\nservers = ['a:1']\nraw = true",
            ["memcached.raw", "is true", "upload"],
        ),
        (SHARDS.format("'one a:1', 'one b:1'"), ["replicated.shards", "all names"]),
        (NEAR.format("'lmdb:', 's3://bucket'"), ["replicated.stores", "lmdb:FOLDER"]),
        (NEAR.format("'lmdb:a', 'lmdb:./a'"), ["replicated.stores", "different"]),
        (NEAR.format("'lmdb:a', 's3://B'"), ["replicated.stores", "s3://BUCKET"]),
        (NEAR.format("'lmdb:a', 's3://bucket/.a'"), ["replicated.stores", "s3://BUCKET"]),
        (NEAR.format("'lmdb:a', 's3://bucket/a', 's3://bucket/a/'"), ["different"]),
        (NEAR.format("'lmdb:a', 'b:1'"), ["replicated.stores"]),
        (NEAR_OF_LARGE.format("'lmdb:a', 's3://bucket'"), ["max_file_size", "67108864"]),
        ("[bucket]\nendpoint = 'http://a:1'", ["bucket.endpoint", "allow_http"]),
        ("[bucket]\nendpoint = 'a:1'", ["bucket.endpoint", "http://HOST:PORT"]),
        (SHARDS.format("'one a:1', 'two a:1'"), ["replicated.shards", "stores different"]),
        (SHARDS.format("'one x0 a:1'"), ["replicated.shards", "xWEIGHT"]),
        (SHARDS.format("'one'"), ["replicated.shards", "NAME STORE"]),
        (SHARDS.format("'one a:1 http://b:1/'"), ["replicated.shards", "each store"]),
        (SHARDS.format("'one file:/a http://b:1/', 'two c:1'"), ["replicated.shards"]),
        (SHARDS.format("'one http://a:1/ http://A:1'"), ["replicated.shards", "different"]),
        (SHARDS.format("'one http://a:1/b?c=d'"), ["replicated.shards", "http://HOST:PORT"]),
        (SHARDS.format("'one http://a:1/%20/'"), ["replicated.shards", "http://HOST:PORT"]),
        (SHARDS.format("'one https://a:1/'"), ["replicated.shards"]),
        (SHARDS.format("'one file:'"), ["replicated.shards", "file:FOLDER"]),
        (SHARDS.format("'one file:/a file:///a/'"), ["replicated.shards", "different"]),
        (FILES + MIGRATION + "shards = ['new d:1']", ["of two kinds", "plain files"]),
        (FILES + MIGRATION + "stores = ['http://d:1/']", ["migration.shards", "is empty", "jump"]),
        (FILES + MIGRATION + "placement = 'mirror'\nshards = ['x http://d:1/']", ["is empty"]),
        (
            FILES + MIGRATION + "shards = ['x http://d:1/']\nstores = ['http://e:1/']",
            ["migration.stores", "is not used", "migration.shards"],
        ),
        (
            FILES + MIGRATION + "placement = 'ketama'\nstores = ['http://d:1/']",
            ["migration.copies", "is 3", "there are 1 stores"],
        ),
        (
            FILES + "former_shards = ['x http://e:1/']\n[migration]\nshards = ['n http://d:1/']",
            ["replicated.former_shards", "is set", "sfss rebalance"],
        ),
        (
            FILES + "write_quorum = 2\n[migration]\nshards = ['n http://d:1/ http://e:1/']",
            ["replicated.write_quorum", "is 2", "at most 1"],
        ),
        (
            FILES + MIGRATION + "shards = ['n http://a:1 http://d:1/']",
            ["'http://a:1'", "'http://a:1/'", "alike"],
        ),
        (
            SHARDS.format("'one a:1 b:1'") + "\n[migration]\nshards = ['n A:1']",
            ["'A:1'", "'a:1'", "alike"],
        ),
        (
            "[cluster]\nmax_file_size = 67108865\nkind = 'nodes'\n"
            "[memcached]\nraw = true\nservers = ['a:1']",
            ["cluster.max_file_size", "67108864", "raw"],
        ),
        (BLOBS.format("'native'", "stores = ['blobs:http://a/']"), ['"native"', "blobs:http://a/"]),
        (BLOBS.format("'blobs', 'paths'", "stores = ['blobs:http://a/']"), ['"paths"', "fetch"]),
        (
            BLOBS.format("'fetch'", "stores = ['blobs:http://a/', 'b:1']"),
            ["replicated.stores", "blobs:http://a/", "in groups only"],
        ),
        (
            BLOB_GROUPS.format("'one blobs:http://a/ b:1'")
            + "[memcached]\nkey_encoding = 'base64'",
            ["memcached.key_encoding", "base64", "blobs:http://a/", "percent"],
        ),
        (BLOB_GROUPS.format("'one blobs:http://a/ b:1', 'two file:/c'"), ["replicated.shards"]),
        (BLOB_GROUPS.format("'one blobs:http://a blobs:http://A:80/'"), ["stores different"]),
        (BLOB_GROUPS.format("'one blobs:a:80'"), ["blobs:http://HOST:PORT/"]),
        (BLOB_GROUPS.format("'one blobs:file:/a'"), ["blobs:http://HOST:PORT/"]),
        ("clusters = 1", ["clusters", "is 1"]),
        ("[[listen]]\naddres = 'a:1'", ["listen.addres", "unknown", "did you mean address"]),
        ("[[listen]]\naddress = 'a'", ["listen.address", 'is "a";', '"host:port"']),
        ("[[listen]]\naddress = 'a:1'", ["listen.faces", "missing", '"native"']),
        (LISTEN + "faces = ['page']", ["listen.faces", "page", '"paths"']),
        (LISTEN + "faces = ['paths', 'paths']", ["listen.faces", "different"]),
        (LISTEN + "faces = []", ["listen.faces", "[]"]),
        (LISTEN + "faces = [['paths']]", ["listen.faces", "different"]),
        (LISTEN * 2, ["listen.faces", "missing"]),
        (PATHS + LISTEN.lower() + "faces = ['paths']", ["listen.address", "twice"]),
        (PATHS + "[server]\nport = 80", ["server.port", "is 80", "[[listen]]"]),
        (PATHS + "[server]\nfaces = ['paths']", ["server.faces", "[[listen]]"]),
        ("[listen]\naddress = 'a:1'", ["listen", '{address = "a:1"}', "tables", "[[listen]]"]),
        ("[[listn]]\naddress = 'a:1'", ["[listn]", "did you mean listen"]),
        ("[server]\nfaces = ['native', 'page']", ["server.faces", 'has "page";', '"debug"']),
        ("[server]\nfaces = ['nativ']", ["server.faces", 'is ["nativ"];']),
        (REPLICATED + "preferred = ['e:1', 'e:1']", ['has "e:1" twice']),
        ("port = 1", ["port", "did you mean port under [server]?"]),
        ("timeout_s = 1.0", ["under [embedded] or [memcached] or [webdav]"]),
        ("[paths]\nrewrites = ['/a']", ["paths.rewrites", "FROM TO"]),
        ("[paths]\nrewrites = ['/a b c']", ["paths.rewrites", "/a b c"]),
        ("[paths]\nrewrites = ['/a /b/../c']", ["paths.rewrites", "/.."]),
        ("[paths]\nrewrites = ['/a //b']", ["paths.rewrites", "//b"]),
        ("[clusters]\na = 1", ["clusters.a", "is 1"]),
        ("[clusters.a.server]\nport = 1", ["cluster", 'is ""', "--cluster", "a"]),
        ("[clusters.a.server]\nprot = 1", ["[clusters.a]", "server.prot", "server.port"]),
    ],
)
def test_a_wrong_setting_is_named_with_file_key_value_and_what_is_allowed(
    text: str, words: list[str]
) -> None:
    with pytest.raises(SettingError) as caught:
        load(text, "some.toml")
    sentence = str(caught.value)
    for word in ["some.toml", *words]:
        assert word in sentence


@pytest.mark.parametrize("text", ["eighty", "", "1e3", "80 80"])
def test_a_wrong_variable_is_refused(text: str) -> None:
    with pytest.raises(
        SettingError, match=r"environment \(SFSS_SERVER_PORT\): server.port: .*65535"
    ):
        load(environ={"SFSS_SERVER_PORT": text})


def test_an_unknown_variable_with_our_prefix_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        SettingError, match="SFSS_SERVER_PRT: unknown; did you mean SFSS_SERVER_PORT"
    ):
        load(environ={"SFSS_SERVER_PRT": "1"})


def test_variables_that_are_no_settings_are_left_alone() -> None:
    assert load(environ={"SFSS_CONFIG": "x", "SFSS_PORT": "tcp://10.0.0.1:8255"}) == Settings()


def test_what_is_printed_is_read_back_to_the_same() -> None:
    text = "[memcached]\nservers = ['a:1']\n[embedded]\nfolder = 'a \"quoted\\name'"
    settings = load(text)
    assert load(as_toml(settings)) == settings


SECRET = "of-what-nobody-may-see"


@pytest.mark.parametrize("key", ["server.admin_token", "memcached.secret", "webdav.token"])
def test_a_secret_is_not_shown(key: str) -> None:
    section, _, name = key.partition(".")
    settings = load(f"[{section}]\n{name} = '{SECRET}'")
    text = as_toml(settings)
    assert getattr(getattr(settings, section), name) == SECRET
    assert f"\n# {name} is set, and not shown\n" in text
    assert load(text) == Settings()
    assert SECRET not in text + repr(settings)


@pytest.mark.parametrize("wrong", ["'very short'", "'with a space here and there'", "7777777"])
def test_a_wrong_secret_is_not_shown(wrong: str) -> None:
    with pytest.raises(SettingError, match="16 to 1000 characters of ASCII") as caught:
        load(f"[memcached]\nsecret = {wrong}")
    assert wrong.strip("'") not in str(caught.value)
    with pytest.raises(SettingError, match="a text is expected") as caught:
        load("[server]\nadmin_token = 7777777")
    assert "7777777" not in str(caught.value)


def test_the_sample_file_is_generated_from_the_declarations() -> None:
    assert (CONF / "sfss.toml").read_text() == as_toml(Settings())


def test_the_table_in_the_docs_is_generated_from_the_declarations() -> None:
    assert as_table() in (CHECKOUT / "docs" / "settings.rst").read_text()


def test_copies_on_a_local_store_a_bucket_a_folder_and_a_node() -> None:
    stores = ("lmdb:a", "s3://bucket/some/prefix", "file:b", "http://c:1/")
    text = NEAR.format(", ".join(map(repr, stores)))
    settings = load(text)
    assert settings.replicated.stores == stores
    assert make_scheme(settings).limit == 250
    settings = load(text.replace("'lmdb:a', ", ""))
    assert make_scheme(settings).limit == 1024 - len("some/prefix/.sfss/deleted/")
    assert load(NEAR_OF_LARGE.format("'s3://bucket', 'file:b'"))


@pytest.mark.parametrize("file", sorted(CONF.glob("*.toml")), ids=lambda file: file.name)
def test_every_page_of_conf_is_accepted(file: Path) -> None:
    text = file.read_text()
    for name in re.findall(r"^\[clusters\.(\w+)\.", text, re.MULTILINE) or [""]:
        load(text, file.name, cluster=name)


def test_every_section_has_only_declared_settings() -> None:
    declared = {section.name for section in fields(Settings)}
    assert {declaration.section for declaration in DECLARATIONS.values()} == declared - {"listen"}


def test_one_of_the_clusters_of_a_file_goes_over_what_they_share() -> None:
    one = load(CLUSTERS, cluster="one").server
    two = load(CLUSTERS, environ={"SFSS_SERVER_WORKERS": "3"}, cluster="two").server
    assert [(each.port, each.workers) for each in (one, two)] == [(11, 2), (22, 3)]


@pytest.mark.parametrize("name", ["", "three"])
def test_a_cluster_has_to_be_named(name: str) -> None:
    with pytest.raises(SettingError, match=r"SFSS_CLUSTER has to name .*: one, two"):
        load(CLUSTERS, cluster=name)


def test_a_cluster_that_the_file_does_not_have() -> None:
    with pytest.raises(SettingError, match="those in the file: none"):
        load("[server]\nport = 1", cluster="one")


def test_listeners_take_the_place_of_host_and_port() -> None:
    assert load("[server]\nport = 80\nhost = '::1'").listeners() == (
        Listen("[::1]:80", ("native", "status", "health", "browser", "api")),
    )
    settings = load(PATHS + "[[listen]]\naddress = '[::1]:81'\nfaces = ['native', 'debug']")
    assert settings.listeners() == (Listen("A:1", ("paths",)), settings.listen[1])
    assert settings.listen[1].host_and_port == ("::1", 81)
    assert load(as_toml(settings)) == settings


def test_each_cluster_of_a_file_can_have_listeners_of_its_own() -> None:
    text = "[[clusters.one.listen]]\naddress = 'a:1'\nfaces = ['paths']\n[clusters.two.server]"
    assert [len(load(text, cluster=name).listen) for name in ("one", "two")] == [1, 0]


def test_shards_are_read() -> None:
    assert read_shard("one a:1 b:2") == ("one", 1, ("a:1", "b:2"))
    assert read_shard("two x3 a:1") == ("two", 3, ("a:1",))
    settings = load(SHARDS.format("'one a:1 b:1', 'two x2 c:1'"))
    assert least_copies(settings.replicated) == 1


def test_files_may_be_larger_on_stores_of_plain_files() -> None:
    text = FILES.replace("[replicated]", "max_file_size = 1073741824\n[replicated]")
    assert load(text).cluster.max_file_size == 1024**3


def test_stores_of_a_migration_count_as_stores() -> None:
    settings = load(FILES + MIGRATION + "shards = ['one http://d:1/ http://a:1/', 'n http://e:1/']")
    names = ["http://a:1/", "http://b:1/", "http://c:1/", "http://d:1/", "http://e:1/"]
    assert sorted(addresses_of(settings)) == names
    assert migrates(settings)
    assert has_plain_files(settings)
    assert not migrates(load(FILES))


def test_without_records_a_file_has_to_fit_in_memory() -> None:
    text = "[cluster]\nkind = 'nodes'\nmax_file_size = 67108865\n[memcached]\nservers = ['a:1']\n"
    assert load(text).cluster.max_file_size == 67_108_865
    with pytest.raises(SettingError, match=r"at most 67108864 where memcached\.raw is true"):
        load(f"{text}raw = true\n")
