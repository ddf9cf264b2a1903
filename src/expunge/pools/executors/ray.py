"""Jobs on a Ray cluster whose machines share the folder of results, or reach the address at which they are kept."""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.errors import BadInput
from expunge.pools import remote
from expunge.pools.executor import Job, Shift, attempt, processors

_STORE_BYTES = 100 << 20
"""For Ray's own object store: results are names of folders."""


@dataclass(frozen=True)
class Ray:
    """A cluster.

    Attributes:
        address: ``auto`` joins the cluster that runs on this machine, ``local`` starts one on it, ``host:port`` joins that one.
        out: the folder of results, which every machine must see under the same path, or their address, which every machine must reach.
        device: kind of device on which all jobs compute, so that every machine makes the same run folders.
        cpus: share of processors that each job takes.
        gpus: share of a GPU that each job takes.
        retries: how often a job is tried again whose worker or machine was lost.
    """

    address: str
    out: str
    device: str = "cpu"
    cpus: float = 1
    gpus: float = 0.0
    retries: int = 2

    def work(self, shift: Shift) -> None:
        """Run all jobs of a shift that can run."""
        ray = load()
        with _joined(ray, self.address), _place(self.out) as place:
            _check_room(ray, self)
            mailbox = _mailbox(ray)
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_task)
            running: dict[Any, Job] = {}
            try:
                self._drive(ray, shift, running, lambda job: task.remote(job, shift.needed(job), shift.keep_going, mailbox, place), mailbox)
            except BaseException:
                for reference in running:
                    ray.cancel(reference, force=True)
                raise

    def _drive(self, ray: Any, shift: Shift, running: dict[Any, Job], start: Any, mailbox: Any) -> None:
        while True:
            for job in shift.ready():
                running[start(self._pinned(job))] = job
                shift.take(job)
            if not running and not shift.rests:
                return
            if not running:
                time.sleep(0.2)
                continue
            done = ray.wait(list(running), timeout=0.5)[0]
            for event in ray.get(mailbox.take.remote()):
                shift.report(self._here(event))
            for reference in done:
                _settle(ray, shift, running.pop(reference), reference)

    def _here(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return an event with the folder of this machine: where results are kept at an address, each machine has one of its own."""
        if not remote.is_address(self.out) or "folder" not in event:
            return event
        folder = remote.folder_of(self.out) / Path(event["folder"]).name
        if event["event"] == "end" and not (folder / remote.RECORD).is_file():
            remote.pull(folder)
        return {**event, "folder": str(folder)}

    def _pinned(self, job: Job) -> Job:
        """Return the job with the device that ``auto`` means to the driver; a worker may see other devices."""
        tree = job.arguments.get("tree")
        if not isinstance(tree, dict) or tree.get("device", "auto") != "auto":
            return job
        return replace(job, arguments={**job.arguments, "tree": {**tree, "device": self.device}})


def load() -> Any:
    """Return the package ``ray``, which sends nothing to its makers.

    Raises:
        BadInput: it is not installed.
    """
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # the machines have the package; Ray would copy this folder to each
    }.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise BadInput("evaluate.ray", "the package ray is not installed.", "pip install 'expunge[ray]'") from None
    return ray


@contextlib.contextmanager
def _joined(ray: Any, address: str) -> Iterator[None]:
    """Be connected to a cluster; one that was started here ends with the process."""
    if not ray.is_initialized():
        _check_answers(address)
        more = {"num_cpus": processors(), "object_store_memory": _STORE_BYTES, "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **more)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _not_joined(address, (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")) from None
    yield


def _check_answers(address: str) -> None:
    """Refuse a cluster that does not answer at once, or that has ended and left its address behind; Ray would try for minutes.

    Raises:
        BadInput: nobody answers at the address.
    """
    left = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or (left.read_text().strip() if left.is_file() else "")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise _not_joined(address, error.strerror or str(error)) from None


def _not_joined(address: str, reason: str) -> BadInput:
    return BadInput(
        "evaluate.ray", f"cannot join the cluster {address!r}: {reason}.", "Start one with `ray start --head`, or use --ray local."
    )


@contextlib.contextmanager
def _place(out: str) -> Iterator[dict[str, str]]:
    """Say where the machines are to work, and how each can tell that it reaches the results."""
    if remote.is_address(out):
        remote.check_writable(remote.folder_of(out))
        yield {"folder": os.getcwd(), "address": out}
        return
    with _token(Path(out)) as token:
        yield {"folder": os.getcwd(), "token": str(token)}


@contextlib.contextmanager
def _token(out: Path) -> Iterator[Path]:
    """Have a file in the folder of results by which each machine can tell that it sees the same folder."""
    path = out.absolute() / f".shared-{uuid.uuid4().hex[:12]}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise BadInput("out", f"cannot write {path}: {error.strerror}.", "Choose another folder with out=FOLDER.") from None
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _check_room(ray: Any, asked: Ray) -> None:
    """Refuse what no machine of the cluster can ever give, instead of waiting for it for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(there.get("CPU", 0) >= asked.cpus and there.get("GPU", 0) >= asked.gpus for there in machines):
        return
    most = {kind: max((there.get(kind, 0) for there in machines), default=0) for kind in ("CPU", "GPU")}
    found = f"a run takes {asked.cpus:g} processors and {asked.gpus:g} GPUs; the largest machine has {most['CPU']:g} and {most['GPU']:g}."
    raise BadInput("evaluate.ray", found, "Use a smaller evaluate.threads or evaluate.gpus, or device=cpu.")


class _Mailbox:
    """Keeps the events of workers until the driver takes them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        """Keep one."""
        self.events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """Return and forget all."""
        taken, self.events = self.events, []
        return taken


def _mailbox(ray: Any) -> Any:
    """Return a mailbox on the machine of the driver, so that no other machine's loss loses it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=here).remote()


def _task(job: Job, results: dict[str, Any], keep_going: bool, mailbox: Any, place: dict[str, str]) -> tuple[str, Any]:
    """Do one job: what a worker does."""
    from expunge.pools.executors.processes import portable

    sent: list[Any] = []
    try:
        _go_to(place)
        return "result", attempt(job, results, lambda event: sent.append(mailbox.put.remote(event)), keep_going)
    except Exception as error:
        return "error", portable(error)
    finally:
        _wait_for(sent)


def _wait_for(sent: list[Any]) -> None:
    """Have all events delivered before the result."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(sent)


def _go_to(place: dict[str, str]) -> None:
    """Work in the driver's folder, after a look whether this machine sees the folder of results.

    Where results are kept at an address, machines need share no folder; one that lacks the driver's stays where it is.

    Raises:
        BadInput: it does not see one of them, or does not reach the address.
    """
    import platform

    if "address" in place:
        remote.see(place["address"])
        with contextlib.suppress(OSError):
            os.chdir(place["folder"])
        return
    remedy = "Give a folder that all machines of the cluster share under the same path, for example on NFS."
    if not Path(place["token"]).is_file():
        raise BadInput("out", f"the machine {platform.node()} does not see {Path(place['token']).parent}.", remedy)
    try:
        os.chdir(place["folder"])
    except OSError as error:
        found = f"the machine {platform.node()} cannot work in {place['folder']}: {error.strerror}."
        raise BadInput("out", found, "Run the command from " + remedy[5:]) from None


def _settle(ray: Any, shift: Shift, job: Job, reference: Any) -> None:
    """Tell the shift what came of a job."""
    try:
        kind, value = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    except ray.exceptions.RayError as error:
        return shift.lose(job, _how(error))
    if kind == "error":
        raise value
    shift.finish(job, value)


def _how(error: Exception) -> str:
    name = type(error).__name__
    known = {"NodeDiedError": "its machine was lost", "OutOfMemoryError": "its worker was ended because the machine was out of memory"}
    return known.get(name, f"its worker was lost ({name})")
