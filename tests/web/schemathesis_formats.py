"""What schemathesis makes up where the description names a format of its own."""

import json

import schemathesis
from hypothesis import strategies

from sfss.web.description_parts import ARGUMENTS

PATH_BYTES = 250
_WORDS = strategies.from_regex("[a-z0-9 ]{1,20}", fullmatch=True)
_TAG = strategies.from_regex(r'(W/)?"[!#-~]{0,32}"', fullmatch=True)


def paths(name: str) -> strategies.SearchStrategy[str]:
    """Return paths as the argument ``name`` is described, of at most ``PATH_BYTES``."""
    pattern = str(ARGUMENTS[name]["schema"]["pattern"]).removeprefix("^").removesuffix("$")
    found = strategies.from_regex(pattern, fullmatch=True)
    return found.filter(lambda path: len(path.encode("utf-8", "surrogatepass")) <= PATH_BYTES)


for name, strategy in {
    "sfss-path": paths("path"),
    "sfss-url-path": paths("url_path"),
    "etags": strategies.just("*") | strategies.lists(_TAG, min_size=1, max_size=4).map(", ".join),
    "json-object-of-strings": strategies.dictionaries(_WORDS, _WORDS, max_size=4).map(json.dumps),
}.items():
    schemathesis.openapi.format(name, strategy)
