"""What runs the pipeline: Daft in this process on all cores, or Daft on Ray over many machines.

Both run the same program on the same files, so they give the same corpus. On Ray every machine has
to see the inputs and the corpus directory under the same paths (a shared file system).

A worker process, or on Ray a whole machine, may be lost at any time: what it had not reported is
done again, which gives the same files.
"""

import importlib.util
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence

import daft
from daft import DataType, col

from llmstages.config.collect_groups import EngineConfig
from llmstages.data.encoding import num_cores
from llmstages.errors import UserError
from llmstages.report.terminal import clipped, warn

Task = Callable[[str], str]
"""A piece of work: a name in, a report out, results in files. Done twice, it leaves the same."""

MOST_LOSSES = 4
"""Workers lost before a run gives up, with the same piece of work first in the queue."""


class TaskFailed(RuntimeError):
    """A task raised an exception, which is told in the first line; its traceback follows."""


class WorkersLost(RuntimeError):
    """Workers were lost over the same work again and again."""


class Engine:
    """A running engine."""

    def __init__(self, config: EngineConfig) -> None:
        """Start Daft, and Ray where it is asked for.

        Raises:
            UserError: Ray is not installed or cannot be reached, or this process already runs
                another engine.
        """
        self.distributed = config.name == "ray"
        self.num_workers = num_cores()
        if not self.distributed and (config.address or config.num_workers):
            warn("engine.address and engine.num_workers are ignored without engine=ray")
        elif config.address and config.num_workers:
            warn("engine.num_workers is ignored: the cluster at engine.address has its own")
        if not self.distributed:
            _start_embedded()
        elif daft.get_or_infer_runner_type() != "ray":
            self.num_workers = _start_ray(config)

    def close(self) -> None:
        """End a local Ray cluster, whose processes would outlive an interrupted run."""
        if self.distributed:
            import ray

            ray.shutdown()

    def run(self, task: Task, names: Sequence[str], parallel: bool = True) -> Iterator[str]:
        """Run the task on every name, on all workers; its reports come in any order.

        A task is Python code and holds the interpreter's lock, so each worker is a process;
        `parallel=False` spares starting them where there is little to do.

        Raises:
            TaskFailed: a task raised an exception.
            WorkersLost: the same work was tried `MOST_LOSSES` times.
        """
        waiting = list(names)
        first, losses = None, 0
        while waiting:
            if waiting[0] != first:
                first, losses = waiting[0], 0
            done: set[str] = set()
            try:
                for name, report in self._run_once(task, waiting, parallel and len(names) > 1):
                    done.add(name)
                    yield report
                return
            except TaskFailed:
                raise
            except Exception as error:
                losses += 1
                if losses == MOST_LOSSES:
                    raise WorkersLost(
                        f"{losses} times over the same work ({_reason(error)}); is memory short? "
                        "The same command goes on where this one was"
                    ) from error
                warn(f"a worker was lost ({_reason(error)}): what it did is done again")
            waiting = [name for name in waiting if name not in done]

    def _run_once(
        self, task: Task, names: Sequence[str], parallel: bool
    ) -> Iterator[tuple[str, str]]:
        """Each name with its report, until the first worker is lost."""

        def attempt(name: str) -> str:
            # As text: an exception that comes from Daft is then one of the engine, not of a task.
            try:
                return json.dumps([name, task(name), None])
            except Exception as error:
                return json.dumps([name, "", failure(error)])

        function = daft.func(
            attempt,
            return_dtype=DataType.string(),
            use_process=self.distributed or (parallel and self.num_workers > 1),
        )
        frame = daft.from_pydict({"task": list(names)})
        if self.distributed:
            frame = frame.into_partitions(min(len(names), 4 * self.num_workers))
        reports = frame.into_batches(1).select(function(col("task")).alias("report"))
        for batch in reports.to_arrow_iter():
            for name, report, error in map(json.loads, batch.to_pydict()["report"]):
                if error:
                    raise TaskFailed(error)
                yield name, report


def failure(error: Exception) -> str:
    """An exception as text: type and message, then its traceback."""
    lines = traceback.format_exception(error)
    return "".join([lines[-1], *lines])


def _reason(error: Exception) -> str:
    """The beginning of an error of the engine, on one line."""
    return clipped(" ".join(str(error).split()) or repr(error), 100)


def _start_embedded() -> None:
    """Choose Daft's own engine: before it chose by itself it would import Ray, a second's work."""
    try:
        daft.set_runner_native()
    except Exception:  # a process keeps the first it used
        if daft.get_or_infer_runner_type() == "ray":
            raise UserError(
                "engine=embedded: this process already runs on Ray: start another one"
            ) from None


def _start_ray(config: EngineConfig) -> int:
    """Connect to a Ray cluster, or start one here; the number of its processors."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("engine=ray needs Ray: run pip install 'llmstages[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default of Ray to come
    import ray

    try:
        ray.init(
            address=config.address or "local",
            num_cpus=None if config.address else config.num_workers,
            include_dashboard=None if config.address else False,
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"DAFT_ANALYTICS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}},
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"engine.address={config.address}: Ray does not answer ({reason}): start it with "
            "`ray start --head`, or leave the address out for a local cluster"
        ) from error
    try:
        daft.set_runner_ray(noop_if_initialized=True)
    except Exception:
        raise UserError(
            "engine=ray: this process already runs Daft's own engine: start another one"
        ) from None
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 1))
