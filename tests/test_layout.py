"""Holds the floors: a module imports only from lower ones, and siblings only where listed."""

import ast
import re
from pathlib import Path

import pytest

from tests.servers import CHECKOUT

PACKAGE = CHECKOUT / "sfss"

FLOORS = {
    "errors": 0,
    "asking": 0,
    "client_errors": 0,
    "json_log": 0,
    "metrics": 0,
    "timings": 0,
    "checks": 1,
    "config": 1,
    "listening": 1,
    "spool": 1,
    "turns": 1,
    "config_checks": 1,
    "config_groups": 1,
    "config_joined": 1,
    "members": 1,
    "ballots": 1,
    "member_state": 1,
    "member_talk": 1,
    "config_reading": 1,
    "config_text": 1,
    "keys": 1,
    "ulid": 1,
    "object_entries": 1,
    "blob_ids": 1,
    "chunks": 1,
    "streams": 1,
    "record": 1,
    "http_text": 1,
    "http_connection": 1,
    "http_pool": 1,
    "memtext": 1,
    "memtext_commands": 1,
    "memtext_listing": 1,
    "handshake": 1,
    "items": 1,
    "placement": 1,
    "agreement": 1,
    "faults": 1,
    "upload_plan": 1,
    "client_text": 1,
    "glob_patterns": 1,
    "sync_plan": 2,
    "sieve": 1,
    "stores": 2,
    "client_bodies": 2,
    "client_asking": 2,
    "client_download": 2,
    "client_saving": 2,
    "client_asynchronous": 2,
    "client": 2,
    "cluster": 3,
    "browsing": 3,
    "sweeping": 3,
    "expiring": 3,
    "evicting": 3,
    "complaints": 3,
    "stopwatch": 3,
    "readiness": 3,
    "member_messages": 3,
    "member_files": 3,
    "talking": 3,
    "discovery": 3,
    "routed": 3,
    "large": 3,
    "owed": 3,
    "object_shelf": 3,
    "object_bodies": 3,
    "object_origin": 3,
    "object_debts": 3,
    "object_fetching": 3,
    "object_evicting": 3,
    "objects": 3,
    "migration": 3,
    "holders": 3,
    "healing": 3,
    "paying": 3,
    "lookup": 3,
    "reading": 3,
    "writing": 3,
    "copies": 3,
    "moving": 3,
    "groups": 3,
    "inventory": 3,
    "repair_notes": 3,
    "repair": 3,
    "repair_chunks": 3,
    "repair_walk": 3,
    "roster": 3,
    "web": 4,
    "node_room": 4,
    "node_newcomers": 4,
    "node_listener": 4,
    "node_reads": 4,
    "node_commands": 4,
    "node_stats": 4,
    "node_outbox": 4,
    "node": 4,
    "replicas": 5,
    "member_stores": 5,
    "joining": 5,
    "members_command": 5,
    "moved_places": 5,
    "object_parts": 5,
    "service": 5,
    "worker": 5,
    "node_process": 5,
    "repair_report": 5,
    "repair_commands": 5,
    "repair_subject": 5,
    "migrate_commands": 5,
    "upload_sources": 5,
    "upload_feed": 5,
    "upload": 5,
    "put_command": 5,
    "progress": 5,
    "remote_command": 5,
    "get_command": 5,
    "list_commands": 5,
    "sync_sides": 5,
    "sync_command": 5,
    "client_commands": 5,
    "status_command": 5,
    "bench_command": 5,
    "tar_reading": 5,
    "tar_commands": 5,
    "completion_command": 5,
    "nginx_conf": 5,
    "nginx_command": 5,
    "stores_command": 5,
    "cli": 5,
}
SIBLINGS = {
    ("chunks", "ulid"): "bodies of objects have the ids of objects in their keys",
    ("placement", "chunks"): "where a chunk belongs is seen from its key",
    ("object_entries", "chunks"): "one module knows the forms of keys",
    ("object_entries", "record"): "an entry is a record",
    ("object_shelf", "cluster"): "an engine keeps the entries",
    ("object_bodies", "cluster"): "an engine keeps the bodies",
    ("object_origin", "complaints"): "what fails is logged, once in a while",
    ("object_origin", "owed"): "what a bucket has missed it is owed",
    ("object_debts", "object_bodies"): "what the bucket lacks is brought there",
    ("object_debts", "object_origin"): "the bucket is made as the entries say",
    ("object_debts", "object_shelf"): "the bucket is made as the entries say",
    ("object_debts", "owed"): "the list is gone through from place to place",
    ("object_fetching", "object_bodies"): "what comes from the bucket is kept",
    ("object_fetching", "object_origin"): "the bucket is where it comes from",
    ("object_fetching", "object_shelf"): "what comes from the bucket gets an entry",
    ("object_evicting", "evicting"): "bodies are evicted like files",
    ("object_evicting", "object_origin"): "what goes is in the bucket",
    ("object_evicting", "object_shelf"): "the entry says which body is that of the object",
    ("objects", "object_bodies"): "an object has a body",
    ("objects", "object_fetching"): "what the members have lost is fetched",
    ("objects", "object_debts"): "what the bucket is owed is paid",
    ("objects", "object_origin"): "what the members have lost is in the bucket",
    ("objects", "object_shelf"): "an object has an entry",
    ("object_parts", "replicas"): "one process of a gateway pays",
    ("service", "object_parts"): "a gateway may show objects",
    ("config", "checks"): "a setting is declared with its check",
    ("config", "listening"): "where to listen is a setting",
    ("listening", "checks"): "a setting is declared with its check",
    ("config", "keys"): "the longest key is a limit of the settings too",
    ("config_checks", "checks"): "the kind of a store is seen from its address",
    ("config_checks", "config"): "settings are held against each other",
    ("members", "checks"): "a member has an address",
    ("ballots", "members"): "what is voted on is a membership",
    ("member_state", "ballots"): "a member remembers its vote",
    ("member_state", "members"): "a member knows who belongs to the cluster",
    ("member_talk", "ballots"): "members vote by messages",
    ("member_talk", "member_state"): "what is heard changes what is known",
    ("member_talk", "members"): "members tell each other who they are",
    ("talking", "member_files"): "what is promised is kept in a file",
    ("discovery", "complaints"): "what fails is logged, once in a while",
    ("discovery", "talking"): "one process asks, and all answer",
    ("member_stores", "replicas"): "a member has copies on the stores of all",
    ("joining", "member_stores"): "a gateway may be a member",
    ("joining", "replicas"): "one process of a member speaks",
    ("repair_subject", "member_stores"): "a tool works on the stores of the members",
    ("service", "joining"): "a gateway may join others",
    ("members_command", "service"): "the settings are read as for a gateway",
    ("cli", "members_command"): "sfss members",
    ("config_joined", "checks"): "whether an address can be reached from elsewhere is seen from it",
    ("config_joined", "config"): "a cluster of members has settings of its own",
    ("config_joined", "listening"): "members are listened to, too",
    ("config_joined", "member_state"): "the stores are those of the members known",
    ("config_checks", "config_joined"): "settings are held against each other",
    ("config_groups", "checks"): "a group is written as a shard",
    ("config_groups", "config"): "a group has settings of its own",
    ("config_reading", "checks"): "values are shown as they are written",
    ("config_reading", "config"): "what is read are settings",
    ("config_reading", "config_checks"): "settings are held against each other",
    ("config_reading", "listening"): "where to listen is a setting",
    ("config_text", "checks"): "values are shown as they are written",
    ("config_text", "config"): "settings are printed as they are declared",
    ("memtext", "keys"): "the longest key is a rule of the protocol",
    ("memtext_commands", "keys"): "the longest key is a rule of the protocol",
    ("memtext_commands", "record"): "the body of a command is a buffer as a record's is",
    ("memtext_listing", "keys"): "the longest key is a rule of the protocol",
    ("memtext_listing", "memtext"): "a list ends with a status, and is bad as any reply",
    ("items", "record"): "an item is kept as a record",
    ("blob_ids", "record"): "the digest of the body of a record is an id",
    ("faults", "agreement"): "what one copy lacks, the others tell",
    ("faults", "record"): "copies are of records",
    ("agreement", "record"): "stores agree on records",
    ("healing", "holders"): "stores are asked and written one by one",
    ("holders", "complaints"): "what fails is logged, once in a while",
    ("expiring", "complaints"): "what fails is logged, once in a while",
    ("expiring", "healing"): "a heal makes a tombstone of what has expired",
    ("evicting", "complaints"): "what fails is logged, once in a while",
    ("sweeping", "complaints"): "what fails is logged, once in a while",
    ("routed", "complaints"): "what fails is logged, once in a while",
    ("healing", "owed"): "what is owed may be newer than all that answers",
    ("paying", "healing"): "a debt is paid by a heal",
    ("paying", "holders"): "stores are asked one by one",
    ("paying", "owed"): "what is paid is owed no more",
    ("copies", "lookup"): "what is there is looked up",
    ("lookup", "reading"): "stores are asked for one key at a time",
    ("lookup", "healing"): "a read that sees a difference has it healed",
    ("lookup", "holders"): "stores are asked one by one",
    ("lookup", "owed"): "who is owed something is asked last",
    ("copies", "paying"): "what stores have missed is brought to them",
    ("spool", "record"): "what is spooled is the body of a record",
    ("browsing", "holders"): "stores are asked one by one",
    ("browsing", "owed"): "what a store still has to get, it shows as it was",
    ("chunks", "record"): "chunks and manifests are records",
    ("spool", "streams"): "what is spooled is read and written by the same threads",
    ("http_connection", "http_text"): "what comes is HTTP",
    ("http_connection", "record"): "what is sent is the body of a record",
    ("http_pool", "http_connection"): "a pool is its connections",
    ("http_pool", "http_text"): "an answer has a head",
    ("client_text", "http_text"): "answers are HTTP",
    ("client_text", "upload_plan"): "what a server says to a person is found in one way",
    ("client_asking", "client_bodies"): "a body that cannot be read is not sent again",
    ("client_download", "client_asking"): "what is cut off is asked for again",
    ("client_saving", "client_bodies"): "no file is closed under the hands of a thread",
    ("client_saving", "client_asking"): "what is still missing is asked for",
    ("client_saving", "client_download"): "what is saved is a file as it comes",
    ("client_asynchronous", "client_asking"): "a gateway is asked",
    ("client_asynchronous", "client_bodies"): "what is put has a body",
    ("client_asynchronous", "client_download"): "a file is read as it comes",
    ("client_asynchronous", "client_saving"): "a file is saved",
    ("client", "client_asynchronous"): "one client drives the other",
    ("client", "client_download"): "a file is read as it comes",
    ("streams", "record"): "what is streamed is the body of a record",
    ("large", "cluster"): "it is an engine over an engine",
    ("cluster", "migration"): "a cluster may be about to move",
    ("copies", "browsing"): "the folders of all stores are shown as one",
    ("copies", "healing"): "copies are made equal",
    ("copies", "holders"): "stores are asked and written one by one",
    ("copies", "owed"): "who is owed a key is asked last",
    ("copies", "writing"): "a write goes to all stores",
    ("groups", "copies"): "each group keeps its copies",
    ("moving", "complaints"): "what fails is logged, once in a while",
    ("moving", "copies"): "what is moved has copies",
    ("reading", "holders"): "stores are asked one by one",
    ("writing", "holders"): "stores are written one by one",
    ("writing", "owed"): "what a store has not confirmed it is owed",
    ("node_commands", "node_reads"): "some commands read what others show",
    ("node_stats", "node_commands"): "stats name what is allowed",
    ("node_outbox", "node_reads"): "what is shown is sent",
    ("node_outbox", "node_stats"): "what is sent is counted",
    ("node", "node_commands"): "a connection has commands done",
    ("node", "node_newcomers"): "a client may have to prove that it knows a secret",
    ("node", "node_outbox"): "a connection has answers sent",
    ("node", "node_reads"): "what the store of a node can do",
    ("node", "node_room"): "connections share memory",
    ("node", "node_stats"): "a connection is counted",
    ("node_listener", "node"): "clients are taken in",
    ("node_process", "service"): "one logging configuration",
    ("cli", "node_process"): "sfss node",
    ("cli", "client_commands"): "the commands that ask a gateway",
    ("client_commands", "get_command"): "a row of the table",
    ("client_commands", "list_commands"): "a row of the table",
    ("client_commands", "sync_command"): "a row of the table",
    ("client_commands", "status_command"): "a row of the table",
    ("client_commands", "bench_command"): "a row of the table",
    ("client_commands", "tar_commands"): "a row of the table",
    ("status_command", "remote_command"): "what commands that ask a gateway have in common",
    ("bench_command", "remote_command"): "what commands that ask a gateway have in common",
    ("tar_commands", "remote_command"): "what commands that ask a gateway have in common",
    ("tar_commands", "tar_reading"): "what is imported is an archive",
    ("cli", "completion_command"): "sfss completion",
    ("get_command", "remote_command"): "what commands that ask a gateway have in common",
    ("list_commands", "remote_command"): "what commands that ask a gateway have in common",
    ("sync_command", "remote_command"): "what commands that ask a gateway have in common",
    ("sync_command", "get_command"): "what comes from a gateway is saved in one way",
    ("sync_command", "sync_sides"): "two sides are made alike",
    ("remote_command", "progress"): "how far it is, is shown",
    ("put_command", "progress"): "how far it is, is shown",
    ("moved_places", "replicas"): "keys are placed as the engine places them",
    ("service", "moved_places"): "a start says what cannot be found any more",
    ("service", "replicas"): "one kind of cluster keeps copies",
    ("repair_notes", "owed"): "a debt of everything is remembered until it is settled",
    ("repair", "copies"): "keys are healed and moved by the engine",
    ("repair", "healing"): "what a heal did is counted",
    ("repair", "inventory"): "the listings say where to look",
    ("repair", "owed"): "debts are paid and settled",
    ("repair", "repair_notes"): "the notes say which debts may be settled",
    ("repair_chunks", "copies"): "chunks and manifests have copies",
    ("repair_chunks", "inventory"): "the listings say which chunks may be missing",
    ("repair_chunks", "repair"): "what was seen of a key is added to",
    ("repair_walk", "inventory"): "a walk goes through an inventory",
    ("repair_walk", "repair"): "what was seen of a key is accounted for",
    ("repair_walk", "repair_notes"): "a walk writes down how far it is",
    ("repair_subject", "replicas"): "a tool works on the stores of the gateways",
    ("repair_subject", "service"): "keys are made as gateways do",
    ("repair_commands", "repair_subject"): "a run works on some stores",
    ("repair_commands", "repair_report"): "what a run has done is reported",
    ("repair_commands", "service"): "lines are logged as gateways do",
    ("migrate_commands", "repair_commands"): "what is to move is copied by a tool",
    ("migrate_commands", "replicas"): "the state belongs to the stores",
    ("cli", "migrate_commands"): "sfss migrate",
    ("cli", "repair_commands"): "sfss check, repair, scrub and rebalance",
    ("upload_feed", "upload_sources"): "items are made ahead",
    ("upload", "upload_sources"): "the bodies of files are sent",
    ("put_command", "upload"): "one name after the other is brought to the server",
    ("put_command", "upload_feed"): "names come as they are needed",
    ("put_command", "upload_sources"): "names are looked for in folders and lists",
    ("cli", "put_command"): "sfss put",
    ("nginx_command", "nginx_conf"): "what is asked for is written",
    ("cli", "nginx_command"): "sfss nginx",
    ("stores_command", "service"): "the settings are read as for a gateway",
    ("cli", "stores_command"): "sfss stores",
    ("worker", "service"): "a worker starts the service",
    ("cli", "service"): "the command line reads the settings",
    ("cli", "worker"): "sfss serve is the gunicorn application",
    ("stores.embedded", "stores.lmdb_folder"): "the store is a queue in front of LMDB",
    ("stores.embedded", "stores.lmdb_changes"): "what waits are changes of LMDB",
    ("stores.embedded", "stores.patience"): "all writes that wait share a time limit",
    ("stores.evicting_store", "stores.embedded"): "an embedded store may forget files",
    ("stores.evicting_store", "stores.lmdb_arrivals"): "it knows in which order files came",
    ("stores.evicting_store", "stores.lmdb_changes"): "to forget is a change",
    ("stores.evicting_store", "stores.visited"): "what was read is marked",
    ("stores.lmdb_arrivals", "stores.lmdb_opening"): "the index has its name behind the format's",
    ("stores.lmdb_changes", "stores.lmdb_arrivals"): "what comes and goes is noted with it",
    ("stores.lmdb_changes", "stores.lmdb_expiries"): "when records expire is noted with them",
    ("stores.lmdb_changes", "stores.visited"): "what is replaced is visited",
    ("stores.lmdb_expiries", "stores.lmdb_arrivals"): "what has expired is gone",
    ("stores.lmdb_folder", "stores.lmdb_arrivals"): "the indexes are opened with the records",
    ("stores.lmdb_folder", "stores.lmdb_changes"): "changes are made in transactions",
    ("stores.lmdb_folder", "stores.visited"): "what is read is marked",
    ("stores.lmdb_folder", "stores.lmdb_opening"): "the folder is opened",
    ("stores.lmdb_folder", "stores.lmdb_expiries"): "when records expire is noted with them",
    ("stores.lmdb_expiries", "stores.lmdb_opening"): "the index has its name behind the format's",
    ("stores.lmdb_opening", "stores.lmdb_commits"): "an open folder tells its last commit",
    ("stores.folder", "stores.key_locks"): "changes of a key take turns",
    ("stores.folder", "stores.marks"): "what a file cannot carry is marked",
    ("stores.folder", "stores.plain_folder"): "files are read where they lie",
    ("stores.folder", "stores.plain_heads"): "a head is believed of its own file only",
    ("stores.folder", "stores.plain_writing"): "files are written so that they last",
    ("stores.plain_writing", "stores.plain_folder"): "files are written below one folder",
    ("stores.plain_writing", "stores.plain_heads"): "a raw head need not be carried",
    ("stores.memcached", "stores.memcached_listing"): "listings have connections of their own",
    ("stores.memcached_listing", "stores.memcached_opening"): "connections are authenticated",
    ("stores.memcached_pipeline", "stores.memcached_opening"): "connections are authenticated",
    ("stores.memcached_pool", "stores.memcached_opening"): "connections are authenticated",
    ("stores.memcached_writer", "stores.memcached_opening"): "connections are authenticated",
    ("stores.memcached_listing", "stores.memcached_pool"): "a closed connection is one error",
    ("stores.memcached", "stores.memcached_pool"): "the store asks through the connections",
    ("stores.memcached", "stores.memcached_server"): "what a server is decides what it is sent",
    ("stores.memcached_server", "stores.memcached_pool"): "the server is asked",
    ("stores.memcached", "stores.memcached_writer"): "changes to a node share a connection",
    ("stores.memcached_writer", "stores.memcached_pool"): "both ask in exchanges",
    ("stores.memcached", "stores.memcached_pipeline"): "the hot path has a connection of its own",
    ("stores.blob_server", "stores.blob_fields"): "the head of an answer has room for fields",
    ("stores.blob_server", "stores.blob_listing"): "blobs are listed",
    ("stores.blob_server", "stores.blob_reading"): "the store reads what one server has",
    ("stores.blob_server", "stores.blob_writing"): "the store changes what one server has",
    ("stores.blob_server", "stores.key_locks"): "changes of a key take turns",
    ("stores.blob_server", "stores.marks"): "what a server cannot keep is marked",
    ("stores.blob_server", "stores.plain_heads"): "a blob that was only listed has a head",
    ("stores.blob_server", "stores.webdav_node"): "the store asks one server",
    ("stores.blob_listing", "stores.webdav_node"): "a server is asked as an HTTP node is",
    ("stores.blob_reading", "stores.blob_fields"): "a head is among the fields",
    ("stores.blob_reading", "stores.blob_listing"): "no id is longer than those in a list",
    ("stores.blob_reading", "stores.marks"): "what is hidden is marked",
    ("stores.blob_reading", "stores.plain_heads"): "the digest of a raw file proves nothing",
    ("stores.blob_reading", "stores.webdav_node"): "a server is asked as an HTTP node is",
    ("stores.blob_writing", "stores.blob_fields"): "a head goes among the fields",
    ("stores.blob_writing", "stores.blob_reading"): "what was written is looked at",
    ("stores.blob_writing", "stores.marks"): "what a server cannot keep is marked",
    ("stores.bucket", "stores.bucket_client"): "the store asks one bucket",
    ("stores.bucket", "stores.bucket_listing"): "folders are listed",
    ("stores.bucket", "stores.key_locks"): "changes of a key take turns",
    ("stores.bucket", "stores.plain_heads"): "an object of others has a head all the same",
    ("stores.bucket_client", "stores.bucket_credentials"): "requests are signed",
    ("stores.bucket_listing", "stores.bucket_client"): "folders are in a bucket",
    ("stores.lmdb_copies", "stores.evicting_store"): "an embedded store may be one of several",
    ("stores.lmdb_copies", "stores.plain_heads"): "a file of others has a head all the same",
    ("stores.webdav", "stores.key_locks"): "changes of a key take turns",
    ("stores.webdav", "stores.marks"): "a file's head is marked",
    ("stores.webdav", "stores.plain_heads"): "a file that nobody marked has a head all the same",
    ("stores.webdav", "stores.webdav_listing"): "folders are listed",
    ("stores.webdav", "stores.webdav_node"): "the store asks one node",
    ("stores.webdav", "stores.webdav_writer"): "changes keep file and mark together",
    ("stores.webdav_listing", "stores.webdav_node"): "folders are on a node",
    (
        "stores.webdav_node",
        "stores.plain_heads",
    ): "a file that nobody marked has a head",
    ("stores.webdav_writer", "stores.marks"): "a file's head is marked",
    ("stores.webdav_writer", "stores.plain_heads"): "a mark is about one file",
    ("stores.webdav_writer", "stores.webdav_node"): "files are changed on a node",
    ("web.app", "web.crawling"): "the routes name their handlers",
    ("web.app", "web.admin"): "the routes name their handlers",
    ("web.app", "web.content"): "the routes name their handlers",
    ("web.app", "web.objects"): "the routes name their handlers",
    ("web.objects", "web.body"): "an object without a body is an empty one",
    ("web.objects", "web.files"): "bodies are taken in and answered as by every face",
    ("web.objects", "web.mediatypes"): "the type of an object is that of its name",
    ("web.objects", "web.names_kept"): "more is kept than a body",
    ("web.objects", "web.object_fields"): "what an object is stands in header fields",
    ("metrics", "timings"): "durations are counted in the same memory",
    ("routed", "stopwatch"): "it is noted how long stores take",
    ("holders", "stopwatch"): "it is noted how long stores take",
    ("copies", "stopwatch"): "it is noted how long stores take",
    ("readiness", "cluster"): "the stores of a cluster are asked",
    ("web.app", "web.health"): "the routes name their handlers",
    ("web.app", "web.metrics"): "the routes name their handlers",
    ("web.metrics", "web.status"): "both tell how the processes are",
    ("web.app", "web.debug"): "the routes name their handlers",
    ("web.app", "web.paths"): "the routes name their handlers",
    ("web.app", "web.webdav"): "the routes name their handlers",
    ("web.content", "web.body"): "an upload without a body is an empty one",
    ("web.content", "web.conditional"): "the id of a blob tells its states apart",
    ("web.content", "web.files"): "files are taken in and answered as by every face",
    ("web.content", "web.mediatypes"): "there is a type for what has none",
    ("web.content", "web.names_kept"): "more is kept than a body",
    ("web.crawling", "web.html"): "links stand on pages",
    ("web.crawling", "web.locations"): "a link names a file",
    ("web.folders", "web.files"): "a file has its entity tag in a listing, too",
    ("web.folders", "web.html"): "what is in a folder stands on a page",
    ("web.folders", "web.locations"): "a URL names a folder",
    ("web.paths", "web.files"): "files are taken in and answered as by every face",
    ("web.paths", "web.folders"): "a path may be that of a folder",
    ("web.paths", "web.locations"): "a URL names a file or a folder",
    ("web.webdav", "web.files"): "a copy has the validators of a file",
    ("web.webdav", "web.folders"): "properties are those of files and folders",
    ("web.webdav", "web.locations"): "a URL names where to copy to",
    ("web.webdav", "web.paths"): "a request names a file in one way",
    ("web.app", "web.native"): "the routes name their handlers",
    ("web.app", "web.status"): "the routes name their handlers",
    ("web.server", "web.app"): "requests are answered by the routes",
    ("web.body", "web.form"): "a form is one way to carry a file",
    ("web.native", "web.files"): "files are taken in and answered as by every face",
    ("web.native", "web.mediatypes"): "the type of a file is guessed",
    ("web.files", "web.body"): "a file is read from the body",
    ("web.files", "web.conditional"): "conditions and ranges are honoured",
    ("web.files", "web.mediatypes"): "the type of a file is guessed",
    ("web.files", "web.names_kept"): "more is kept than a body",
    ("web.fast", "web.names_kept"): "more is kept than a body",
    ("web.webdav", "web.names_kept"): "a copy keeps its type",
    ("web.webdav", "web.mediatypes"): "a copy keeps its type",
    ("web.fast", "web.locations"): "a URL names the same file on both ways",
    ("web.fast", "web.mediatypes"): "the type of a file is guessed",
    ("web.connection", "web.access"): "what is slow is named as in the log",
    ("web.fast_connection", "web.access"): "what goes the short way is logged as well",
    ("web.fast_connection", "web.connection"): "the short way is a shortcut of a connection",
    ("web.fast_connection", "web.fast"): "connections try the short way first",
    ("web.server", "web.access"): "requests are logged",
    ("web.server", "web.connection"): "a server is its connections",
    ("web.server", "web.fast"): "all connections share what the short way remembers",
    ("web.server", "web.fast_connection"): "a server is its connections",
}
SHARED = {"stores.base", "web.http"}
"""What every sibling may import: the contract of stores, and what all faces share."""
REASONS = {
    ("web", "stores"): "faces reach stores through cluster",
    ("stores", "web"): "stores know nothing of HTTP",
}
PURE = {
    "checks",
    "config",
    "config_checks",
    "config_groups",
    "listening",
    "config_reading",
    "config_text",
    "keys",
    "ulid",
    "object_entries",
    "blob_ids",
    "record",
    "chunks",
    "http_text",
    "memtext",
    "memtext_commands",
    "memtext_listing",
    "handshake",
    "items",
    "placement",
    "agreement",
    "faults",
    "upload_plan",
    "sieve",
    "nginx_conf",
    "client_text",
    "glob_patterns",
    "sync_plan",
    "stores.blob_fields",
    "stores.plain_heads",
    "web.conditional",
    "web.form",
    "web.html",
    "web.locations",
    "web.mediatypes",
    "web.names_kept",
    "web.object_fields",
}
WORLD = {
    "asyncio",
    "socket",
    "time",
    "os",
    "pathlib",
    "threading",
    "aiohttp",
    "aiomcache",
    "lmdb",
    "obstore",
}
FOREIGN = {
    "aiomcache": {"stores"},
    "lmdb": {"stores"},
    "obstore": {"stores.bucket_client"},
    "prometheus_client": {"web.metrics"},
    "gunicorn": {"worker"},
    "uvloop": {"worker", "node_process", "put_command", "remote_command"},
}


def modules() -> dict[str, Path]:
    """Map dotted names without the leading ``sfss.`` to files."""
    return {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file
        for file in PACKAGE.rglob("*.py")
        if file.name != "__init__.py"
    }


def imports(file: Path) -> set[str]:
    """Return the dotted names that ``file`` imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file.name}: imports are absolute"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def own(names: set[str]) -> set[str]:
    """Return the modules of sfss among ``names``."""
    known = modules()
    cut = {name.removeprefix("sfss.") for name in names if name.startswith("sfss.")}
    return {
        candidate
        for name in cut
        for candidate in (name, name.rpartition(".")[0])
        if candidate in known
    }


def floor(module: str) -> int:
    """Return the floor of ``module``; a package stands on one floor as a whole."""
    return FLOORS[module.partition(".")[0]]


def complaint(module: str, imported: str) -> str | None:
    """Return what is wrong with ``module`` importing ``imported``, if anything."""
    home, other = module.partition(".")[0], imported.partition(".")[0]
    if floor(imported) < floor(module) and (home, other) not in REASONS:
        return None
    if floor(imported) == floor(module) and home == other and imported in SHARED:
        return None
    if floor(imported) == floor(module) and (module, imported) in SIBLINGS:
        return None
    reason = REASONS.get((home, other), f"{imported} is not on a lower floor than {module}")
    path = module.replace(".", "/")
    return f"{path}.py may not import {imported}: {reason}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_from_lower_floors(module: str) -> None:
    found = [complaint(module, imported) for imported in sorted(own(imports(modules()[module])))]
    assert not [sentence for sentence in found if sentence]


@pytest.mark.parametrize("module", sorted(PURE & set(modules())))
def test_a_pure_module_knows_nothing_of_the_world(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(modules()[module])}
    assert not tops & WORLD, f"{module} is pure and may not import {tops & WORLD}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_foreign_packages_stay_behind_their_border(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(modules()[module])}
    for package, homes in FOREIGN.items():
        assert package not in tops or {module, module.partition(".")[0]} & homes, (
            f"{module} may not import {package}: that is for {' and '.join(sorted(homes))}"
        )


def test_the_complaint_names_the_law() -> None:
    assert complaint("web.native", "stores.embedded") == (
        "web/native.py may not import stores.embedded: faces reach stores through cluster"
    )
    assert complaint("record", "stores.base")
    assert complaint("stores.memcached", "stores.embedded")
    assert complaint("web.status", "web.native")
    assert complaint("service", "stores.base") is None


def test_every_module_has_a_floor() -> None:
    assert {module.partition(".")[0] for module in modules()} == set(FLOORS)


def test_the_page_on_architecture_names_every_module_on_its_floor() -> None:
    page = (CHECKOUT / "docs" / "architecture.md").read_text()
    found = re.findall(r"^\| (\d) (.*)", page, re.MULTILINE)
    rows = dict(found)
    assert len(rows) == len(found), "a floor has one row"
    faces = page[page.index("**Faces**") :]
    for module in modules():
        home, _, name = module.partition(".")
        if home == "web":
            assert f"`{name}`" in faces, module
        else:
            assert f"`{module.replace('.', '/')}`" in rows[str(floor(module))], module


def test_no_own_import_hides_in_a_function() -> None:
    for module, file in modules().items():
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = {node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)}
                hidden = [node.module for node in inner if (node.module or "").startswith("sfss")]
                assert not hidden, f"{module}.{function.name} imports {hidden}"
