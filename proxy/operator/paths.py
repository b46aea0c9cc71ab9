"""Which requests the proxy answers itself, and which of those only an operator may make. Pure.

The path is the raw one, before `?`: `application` answers no path that decoding would change, so what is decided here
about the bytes holds for what is answered.
"""

HEALTH, READY, METRICS, SLOTS = "/health", "/ready", "/metrics", "/slots"
MODELS = "/v1/models"  # engines have it, too: where all members are upstreams it is theirs, and so is what is below
MODEL = MODELS + "/"  # followed by the name of a model, in which there may be slashes
ROOT = "/slotproxy/"
API = ROOT + "api/"

OPEN_PATHS = frozenset({HEALTH, READY})  # load balancers and probes have no key
_PAGES = frozenset({HEALTH, READY, METRICS, SLOTS, MODELS})
_READING = frozenset({"GET", "HEAD"})


def is_own(path: str) -> bool:
    """Whether the application answers `path`, be it to say that there is nothing."""
    return path in _PAGES or path.startswith((ROOT, MODEL))


def is_about_models(path: str) -> bool:
    """Whether it asks which models there are, or of one of them."""
    return path == MODELS or path.startswith(MODEL)


def needs_operator(method: str, path: str) -> bool:
    """Whether a request changes what runs, or shows what an engine logged, which may hold what clients asked."""
    if not path.startswith(ROOT):
        return False
    return method not in _READING or path.endswith("/log")
