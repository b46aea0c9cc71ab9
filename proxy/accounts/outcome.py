"""What became of one request, for the metrics and the request log. Pure."""

from slotproxy.proxy.accounts.meter import NOTHING, Usage


class Outcome:
    """Filled in while the request goes its way. Times are of the event loop's clock, durations in seconds.

    What is not known yet stands in the class: most requests never learn it, and one is made for each.
    """

    finished = 0.0
    status = 499  # nginx's code for a client that left; replaced as soon as there is an answer
    error: str | None = None  # code of the refusal, also when the status was out already
    instance: str | None = None
    queued = False
    queue_wait = 0.0
    queue_position = 0  # requests that were ahead when the latest wait began
    first_token = 0.0
    last_byte = 0.0
    size = 0  # bytes of the body
    usage: Usage = NOTHING
    affinity: str | None = None  # where its conversation was, a word of `affinity.Result`; None: nobody asked
    left: str | None = None  # the phase in which the client left: queued, prefill, decode

    def __init__(self, request_id: str, method: str, client: str, started: float, path: str = "") -> None:
        """`client`: its address."""
        self.request_id = request_id
        self.method = method
        self.client = client
        self.started = started
        self.path = path

    def client_left(self) -> None:
        self.left = "queued" if self.queued else "decode" if self.size else "prefill"

    @property
    def duration(self) -> float:
        return self.finished - self.started

    @property
    def time_to_first_token(self) -> float | None:
        """None: no event stream, or none came."""
        return self.first_token - self.started if self.first_token else None

    @property
    def time_per_token(self) -> float | None:
        """Mean time between output tokens of a stream."""
        tokens = self.usage.completion or 0
        if not self.first_token or tokens < 2 or self.last_byte <= self.first_token:
            return None
        return (self.last_byte - self.first_token) / (tokens - 1)
