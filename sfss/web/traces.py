"""Traces for OpenTelemetry: a span for each request, and below it one for each thing that a store
was asked for it.

They are there if the environment says where to (the variables are those of OpenTelemetry's
specification) and its SDK is installed; each process has an exporter of its own. A trace that a
client has begun goes on (``traceparent``, W3C Trace Context), and is passed on to nodes that speak
HTTP. Queries are not told: they may hold what opens a door.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sfss import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

CLOSE_S: Final = 2.0
"""Seconds for what was not sent yet, when a process ends."""

UNTRACED: Final = frozenset({"health", "metrics"})
"""Faces whose requests are none of interest: they come from watchdogs, all the time."""

_PATH_LIMIT: Final = 1000

_log = logging.getLogger(__name__)


class Trace:
    """The span of one request."""

    def __init__(self, traces: "Traces", span: "Span") -> None:
        self._traces, self._span = traces, span

    def lines(self) -> bytes:
        """Return the header lines that pass it on, with their ends."""
        return self._traces.lines(self._span)

    def end(self, status: int, kind: str, is_cut_off: bool) -> None:
        """End, with the ``status`` of the answer, the ``kind`` of the error that it is, if any; and
        whether the client had left before it had all.
        """
        self._traces.end(self._span, status, kind, is_cut_off)


class Traces:
    """All spans of one process."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._context, self._trace = context, trace
        self._provider = provider
        self._tracer = provider.get_tracer("sfss", __version__)
        self._carried = TraceContextTextMapPropagator()

    def begin(self, fields: Mapping[str, str], method: str, target: str, route: str) -> Trace:
        """Begin the span of a request with these header ``fields``, in the task that answers it;
        ``route`` is its address as the API names it.
        """
        came = {name: fields[name] for name in ("traceparent", "tracestate") if name in fields}
        # Nothing of the request before it on the same connection.
        parent = self._carried.extract(came, self._context.Context())
        attributes = {
            "http.request.method": method,
            "http.route": route,
            "url.path": target.partition("?")[0][:_PATH_LIMIT],
            "url.scheme": "http",
        }
        kind = self._trace.SpanKind.SERVER
        span = self._tracer.start_span(f"{method} {route}", parent, kind, attributes)
        self._context.attach(self._trace.set_span_in_context(span, parent))
        return Trace(self, span)

    def lines(self, span: "Span") -> bytes:
        """See ``Trace.lines``."""
        carrier: dict[str, str] = {}
        self._carried.inject(carrier, self._trace.set_span_in_context(span))
        lines = (f"{name}: {value}\r\n" for name, value in carrier.items())
        return "".join(lines).encode("ascii", "replace")

    def end(self, span: "Span", status: int, kind: str, is_cut_off: bool) -> None:
        """See ``Trace.end``."""
        span.set_attribute("http.response.status_code", status)
        if status >= 500 or is_cut_off:
            span.set_status(self._trace.StatusCode.ERROR)
        if status >= 400 or is_cut_off:
            span.set_attribute("error.type", "cut_off" if is_cut_off else kind or str(status))
        span.end()
        self._context.attach(self._context.Context())

    def note_store(self, operation: str, address: str, has_failed: bool, seconds: float) -> None:
        """Tell that a store was asked just now, if that was for a request; see
        ``metrics.NoteStore``.
        """
        if not self._trace.get_current_span().is_recording():
            return
        now_ns = time.time_ns()
        span = self._tracer.start_span(
            f"store {operation}",
            kind=self._trace.SpanKind.CLIENT,
            attributes={"sfss.store": address, "sfss.operation": operation},
            start_time=now_ns - int(seconds * 1e9),
        )
        if has_failed:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(now_ns)

    async def close(self) -> None:
        """Send what was not sent yet, as long as that takes but a moment."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def send() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody has waited for so long
                loop.call_soon_threadsafe(done.set)

        # Not one of the loop's threads: the process would wait for it.
        threading.Thread(target=send, name="traces", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await done.wait()


def are_wanted(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment says where traces are to go."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in names))


def open_traces(environ: Mapping[str, str]) -> Traces | None:
    """Return what the environment asks for; None for nothing. Without the SDK, that is said."""
    if not are_wanted(environ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        _log.warning("the environment asks for traces, and there is no OpenTelemetry: %s", error)
        return None
    named: dict[str, Any] = {"service.version": __version__}
    if not environ.get("OTEL_SERVICE_NAME") and "service.name" not in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        named["service.name"] = "sfss"
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
