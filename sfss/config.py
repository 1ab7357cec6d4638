"""Settings: declared once, here, each with its unit, its default, one line of help and a check.

A value is taken from, in rising order: the default, the TOML file, the environment
(``SFSS_SECTION_NAME``), the command line. The sample file (``conf/sfss.toml``), the table in the
docs and ``sfss config`` are made from these declarations. Pure.
"""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Final, cast

from sfss.checks import (
    ADDRESS,
    ADDRESSES,
    ANY_TEXT,
    BOOLEAN,
    ENDPOINT,
    HIDDEN_TEXT,
    NOT_EMPTY,
    ORIGIN,
    REWRITES,
    SECRET,
    Check,
    Hidden,
    at_least,
    between,
    in_range,
    one_of,
)
from sfss.config_access import AccessSettings
from sfss.config_answers import AnswersSettings, CorsSettings
from sfss.config_limits import LimitsSettings
from sfss.config_quota import QuotaSettings
from sfss.config_replicated import MigrationSettings, NearCacheSettings, ReplicatedSettings
from sfss.declaring import MIB as MIB
from sfss.declaring import Setting as Setting
from sfss.declaring import setting as setting
from sfss.keys import KEY_LIMIT
from sfss.listening import (
    DEFAULT_FACES,
    SOME_FACES,
    Listen,
    address_of,
)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The HTTP server."""

    host: str = setting("127.0.0.1", "address to listen on", NOT_EMPTY)
    port: int = setting(8255, "port to listen on", between(1, 65_535))
    faces: tuple[str, ...] = setting(
        DEFAULT_FACES,
        "what is shown on host and port; native: /file and /files; status: /status; paths: files by"
        " URL path, for WebDAV clients, too; debug: /debug/vars; admin: /admin/migration; upload,"
        " fetch, blobs: /upload, /fetch and /blob, files by their content; objects: /api/v1;"
        " health: /health/live and /health/ready; metrics: /metrics, for Prometheus;"
        " browser: /browse/, files and folders for people; api: /openapi.json, and /api/ to read"
        " it",
        SOME_FACES,
    )
    tls_certificate: str = setting(
        "",
        "file with the certificate, and those between it and the root, in PEM, for HTTPS on host"
        " and port; empty: HTTP. Renewed files count from the next reload (SIGHUP)",
        ANY_TEXT,
    )
    tls_key: str = setting("", "file with the key of the certificate, without password", ANY_TEXT)
    workers: int = setting(1, "worker processes; two a core are plenty", between(1, 128))
    keepalive_timeout_s: float = setting(
        75.0, "seconds an idle connection is kept open", at_least(1)
    )
    body_timeout_s: float = setting(
        30.0, "seconds without a byte of an announced body until 408", at_least(0.1)
    )
    spool_folder: str = setting(
        "",
        "folder for bodies of over 4 MiB while they are used; empty: that of temporary files",
        ANY_TEXT,
    )
    graceful_timeout_s: float = setting(
        30.0, "seconds that requests in flight get to finish at a stop or reload", at_least(1)
    )
    access_log: bool = setting(
        False,
        "write an access log to standard output, in the combined format or as log_format says",
        BOOLEAN,
    )
    admin_token: str = setting(
        "",
        "a token that may do what the scope admin allows; it is kept as it is, so one of"
        " access.tokens, of which only a digest is kept, is better",
        HIDDEN_TEXT,
    )
    log_level: str = setting(
        "info", "least severe message that is logged", one_of("debug", "info", "warning", "error")
    )
    log_format: str = setting(
        "line", "line: lines for people; json: one object a line", one_of("line", "json")
    )
    slow_request_ms: int = setting(
        0,
        "milliseconds from which on a request is logged as slow; 0: none is",
        between(0, 3_600_000),
    )


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What is stored, and on which kind of stores."""

    kind: str = setting(
        "embedded",
        "embedded: on this disk; nodes: each server of [memcached] holds its share;"
        " proxies: any server of [memcached] reaches all files; replicated: copies on several"
        " stores, see [replicated]; joined: copies on the disks of several gateways that find each"
        " other, see [discovery]",
        one_of("embedded", "nodes", "proxies", "replicated", "joined"),
    )
    max_file_size: int = setting(
        2 * MIB,
        "bytes a file may have, up to 1 GiB",
        between(1, 1024 * MIB),
    )
    chunks_above: int = setting(
        4 * MIB,
        "bytes above which a file is kept in chunks; so is what is larger than an item may be",
        between(16 * 1024, 64 * MIB),
    )
    chunks_kept_s: float = setting(
        60.0,
        "seconds that chunks of a file that was replaced or deleted are kept for its readers",
        at_least(0),
    )


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """The embedded store, for cluster.kind "embedded"; timeout_s for any folder on this disk."""

    folder: str = setting(
        "var/store",
        "folder of the files, made if missing; relative to where sfss is started",
        NOT_EMPTY,
    )
    timeout_s: float = setting(
        30.0, "seconds a write may wait for the disk and other processes until 504", at_least(0.1)
    )


@dataclass(frozen=True, slots=True)
class MemcachedSettings:
    """Servers that speak the memcached protocol; read unless cluster.kind is "embedded"."""

    servers: tuple[str, ...] = setting(
        (), 'addresses, each "host:port", for the kinds "nodes" and "proxies"', ADDRESSES
    )
    timeout_s: float = setting(
        2.0,
        "seconds a server may take to answer; longer than a proxy's own time-out",
        at_least(0.01),
    )
    connections: int = setting(8, "connections to each server, for each worker", between(1, 1024))
    retry_after_s: float = setting(2.0, "seconds a proxy that failed is asked last", at_least(0))
    tries: int = setting(3, "proxies that are tried before a request fails", between(1, 100))
    item_limit: int = setting(
        0, "bytes an item may have on the servers; 0: each is asked for it", between(0, 1024 * MIB)
    )
    key_encoding: str = setting(
        "percent",
        "percent: readable keys; base64: the keys of the sfss of 2014",
        one_of("percent", "base64"),
    )
    key_limit: int = setting(
        KEY_LIMIT, "bytes a key may have; Beanseye reads at most 200", between(16, KEY_LIMIT)
    )
    raw: bool = setting(
        False,
        "store plain bodies, for other readers of the same servers; no digest is kept then",
        BOOLEAN,
    )
    secret: str = setting(
        "",
        "what servers that are sfss node with --secret-file have there; empty: none has one."
        " Better set in the environment than in a file",
        SECRET,
    )


@dataclass(frozen=True, slots=True)
class WebdavSettings:
    """HTTP nodes with plain files, "http://HOST:PORT/PATH/", and blob servers, "blobs:http://..."."""

    timeout_s: float = setting(
        2.0, "seconds a node may take until the next byte of its answer", at_least(0.01)
    )
    connections: int = setting(32, "connections to each node, for each worker", between(1, 1024))
    token: str = setting(
        "",
        "what nodes are sent as Authorization: Bearer, for those that are sfss with access.tokens."
        " Better set in the environment than in a file",
        SECRET,
    )


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """Buckets of S3 or what speaks like it; for stores that are "s3://BUCKET/PREFIX"."""

    region: str = setting(
        "", "region of the bucket; empty: AWS_REGION, AWS_DEFAULT_REGION or us-east-1", ANY_TEXT
    )
    endpoint: str = setting(
        "",
        'URL of the server, "https://HOST:PORT"; empty: AWS_ENDPOINT_URL or AWS itself',
        ENDPOINT,
    )
    allow_http: bool = setting(
        False, "whether the endpoint may be http://, over which anybody can read along", BOOLEAN
    )
    timeout_s: float = setting(
        10.0,
        "seconds a bucket may take until the next byte of its answer, or for a part of 8 MiB that"
        " it is sent",
        at_least(0.05),
    )
    connections: int = setting(
        32, "requests to each bucket at the same time, for each worker", between(1, 1024)
    )


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """Gateways that find each other; read when cluster.kind is "joined"."""

    advertise: str = setting(
        "", "address at which other members reach the store of this one, host:port", ADDRESS
    )
    listen: str = setting(
        "", "address to listen on for other members; empty: discovery.advertise", ADDRESS
    )
    join: tuple[str, ...] = setting(
        (),
        "what some members advertise, whose cluster is to be joined; empty, or this gateway itself"
        " the first of them: it is the first, and begins a cluster when it is told to",
        ADDRESSES,
    )
    tag: str = setting("sfss", "name of the cluster; members of others are refused", NOT_EMPTY)
    secret: str = setting(
        "",
        "what members have to know of each other, the same for all. Better set in the environment"
        " than in a file",
        SECRET,
    )
    heartbeat_s: float = setting(
        1.0, "seconds between two words to each member; away is who misses three", in_range(0.1, 60)
    )
    moves_per_s: float = setting(
        500.0, "files a second that a member moves when members have joined or left", at_least(0.1)
    )


@dataclass(frozen=True, slots=True)
class PathsSettings:
    """The face "paths"."""

    rewrites: tuple[str, ...] = setting(
        (),
        'for each "FROM TO", in this order: a path that begins with FROM begins with TO instead',
        REWRITES,
    )


@dataclass(frozen=True, slots=True)
class ContentSettings:
    """The faces "upload", "fetch" and "blobs"."""

    digest: str = setting(
        "sha1",
        "what of its content is the id of an upload: sha1, as SOS has it, or sha256; both are"
        " fetched",
        one_of("sha1", "sha256"),
    )


@dataclass(frozen=True, slots=True)
class ObjectsSettings:
    """The face "objects", and the bucket behind it."""

    bucket: str = setting(
        "", 'where objects of levels 1 and 2 go, "s3://BUCKET/PREFIX"; empty: nowhere', ORIGIN
    )
    write: str = setting(
        "through",
        "when a put of level 1 or 2 is answered. through: the bucket has it, too; back: it is"
        " noted that the bucket has to get it",
        one_of("through", "back"),
    )
    fetch: str = setting(
        "asked",
        "when an object that is not known here is looked for in the bucket. asked: with the field"
        " X-Meta-Fetch: 1; always",
        one_of("asked", "always"),
    )
    tombstone_days: float = setting(
        10.0,
        "days that a deletion is remembered after the bucket has forgotten the object",
        in_range(0.01, 36_500),
    )
    owed_folder: str = setting(
        "var/owed-objects",
        "folder of what the bucket still has to get, made if missing",
        NOT_EMPTY,
    )
    capacity_bytes: int = setting(
        0,
        "bytes that the store of this member keeps; beyond it, bodies of objects of levels 1 and 2"
        " are removed that the bucket has; 0: all is kept",
        between(0, 1 << 60),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, a section each; and ``listen``, whose tables take the place of
    ``server.host``, ``server.port`` and ``server.faces``.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    embedded: EmbeddedSettings = field(default_factory=EmbeddedSettings)
    memcached: MemcachedSettings = field(default_factory=MemcachedSettings)
    webdav: WebdavSettings = field(default_factory=WebdavSettings)
    bucket: BucketSettings = field(default_factory=BucketSettings)
    replicated: ReplicatedSettings = field(default_factory=ReplicatedSettings)
    near_cache: NearCacheSettings = field(default_factory=NearCacheSettings)
    migration: MigrationSettings = field(default_factory=MigrationSettings)
    discovery: DiscoverySettings = field(default_factory=DiscoverySettings)
    paths: PathsSettings = field(default_factory=PathsSettings)
    content: ContentSettings = field(default_factory=ContentSettings)
    objects: ObjectsSettings = field(default_factory=ObjectsSettings)
    answers: AnswersSettings = field(default_factory=AnswersSettings)
    cors: CorsSettings = field(default_factory=CorsSettings)
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    quota: QuotaSettings = field(default_factory=QuotaSettings)
    listen: tuple[Listen, ...] = ()

    def listeners(self) -> tuple[Listen, ...]:
        """Return on what is listened, whichever way it was said."""
        server = self.server
        address = address_of(server.host, server.port)
        only = Listen(address, server.faces, server.tls_certificate, server.tls_key)
        return self.listen or (only,)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One setting as declared: for the sample file, the docs and the command line."""

    section: str
    name: str
    type: type
    default: Setting
    help: str
    check: Check

    @property
    def key(self) -> str:
        """``section.name``, as errors and the command line call it."""
        return f"{self.section}.{self.name}"

    @property
    def is_hidden(self) -> bool:
        """Whether its value is never shown."""
        return isinstance(self.check, Hidden)

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"SFSS_{self.section}_{self.name}".upper()


def _declare(section: str, declared: Field[Any]) -> Declaration:
    assert declared.default is not MISSING
    help, check = declared.metadata["help"], declared.metadata["check"]
    return Declaration(
        section, declared.name, type(declared.default), declared.default, help, check
    )


SECTIONS: Final = {
    entry.name: cast(type, entry.default_factory)
    for entry in fields(Settings)
    if entry.default_factory is not MISSING
}
DECLARATIONS: Final = {
    declaration.key: declaration
    for section, settings in SECTIONS.items()
    for declaration in (_declare(section, entry) for entry in fields(settings))
}
