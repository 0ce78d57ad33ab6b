"""The demo: two acts in simulation, recorded, then measured from the recordings alone."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status
from so101_driver.errors import UserError

from wallx_bringup.acts import ACTS, Act, ActWatch
from wallx_bringup.arguments import Arguments, resolve
from wallx_bringup.processes import Process
from wallx_bringup.runner import Runner
from wallx_bringup.session import open_graph

if TYPE_CHECKING:
    from wallx_policy.evidence.measurement import DemoMeasurement

    from wallx_bringup.nodes.observer import Observer

_LINE_PERIOD_S = 5.0
_LOG_LINES = 15


class Progress:
    """One line that says what happens now: it is replaced in a terminal, else repeated rarely."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = console.status("") if console.is_terminal else None
        self._last_line_s = 0.0
        if self._status is not None:
            self._status.start()

    def show(self, text: str) -> None:
        """Show the current state."""
        now_s = time.monotonic()
        if self._status is not None:
            self._status.update(text)
        elif now_s - self._last_line_s >= _LINE_PERIOD_S:
            self._last_line_s = now_s
            self._console.print(text)

    def close(self) -> None:
        """Remove the line."""
        if self._status is not None:
            self._status.stop()


def run_demo(out_dir: Path, environment: Mapping[str, str]) -> int:
    """Play both acts, measure them, write everything into ``out_dir``.

    Returns:
        0 if the cube is in the tray and every figure could be measured, 1 otherwise.

    Raises:
        UserError: Something that the demo needs is missing.
    """
    width = None if sys.stdout.isatty() else 120
    console = Console(highlight=False, soft_wrap=True, width=width)
    _clear(out_dir)
    checkpoint = _make_checkpoint(out_dir / "checkpoint")
    arguments = {act: _arguments(act, out_dir, checkpoint) for act in ACTS}
    baseline = out_dir / "bare_thread.json"
    progress = Progress(console)
    argv = (sys.executable, "-m", "wallx_bringup.baseline", str(baseline))
    bare_thread = Runner(
        [Process("baseline", argv, defers_signals=True)],
        out_dir / "log",
        environment,
        lambda _name, line: console.print(line, markup=False),
    )
    with _interrupts() as interrupted, contextlib.ExitStack() as stack:
        stack.callback(bare_thread.end)
        stack.callback(progress.close)
        bare_thread.start()
        for act in ACTS:
            console.print(f"\n[bold]{act.title}[/bold]\n{act.note}")
            log_dir = out_dir / "log" / act.name
            play = _Play(act, log_dir, environment, console, progress, interrupted)
            if not play.run(arguments[act]):
                return 1
    return _measure(arguments, out_dir, baseline, console)


class _Play:
    """One act being played."""

    def __init__(
        self,
        act: Act,
        log_dir: Path,
        environment: Mapping[str, str],
        console: Console,
        progress: Progress,
        interrupted: Callable[[], bool],
    ) -> None:
        self._act = act
        self._log_dir = log_dir
        self._environment = environment
        self._console = console
        self._progress = progress
        self._interrupted = interrupted

    def run(self, arguments: Arguments) -> bool:
        """Play it; whether it was played to its end."""
        from wallx_bringup.nodes.observer import Observer

        with (
            open_graph(arguments, self._environment, self._log_dir, _silent) as (runner, graph),
            Observer(graph) as observer,
        ):
            verdict = self._supervise(runner, observer)
        if self._interrupted():
            self._console.print("Interrupted: the arm was parked and every process has ended.")
            return False
        if runner.failures or not verdict:
            self._explain(runner)
            return False
        self._console.print(verdict)
        return True

    def _supervise(self, runner: Runner, observer: Observer) -> str:
        """Run the graph until the act is over and every process has ended; returns the verdict."""
        start_s = time.monotonic()
        watch = ActWatch(self._act, start_s)
        verdict, moving = "", False
        runner.start()
        while runner.poll():
            observer.spin(0.05)
            now_s = time.monotonic()
            if not runner.stopping:
                verdict = watch.verdict(now_s, observer.state, observer.reason, observer.in_tray)
                if verdict or self._interrupted():
                    runner.request_stop()
            if watch.motion_s is not None and not moving:
                moving = True
                seconds = watch.motion_s - start_s
                self._console.print(f"The arm follows the policy {seconds:.1f} s after the start.")
            self._progress.show(self._line(now_s - start_s, observer, runner.stopping))
        return verdict

    def _line(self, elapsed_s: float, observer: Observer, ending: bool) -> str:
        parts = [f"{self._act.name} {elapsed_s:5.1f} s", observer.state or "starting"]
        if ending:
            parts.append("ending: parks the arm first")
        elif observer.subtask:
            parts.append(observer.subtask)
        if observer.lift_m is not None:
            parts.append(f"cube {observer.lift_m * 100:+.1f} cm")
            parts.append("in the tray" if observer.in_tray else "not in the tray")
        return "  |  ".join(parts)

    def _explain(self, runner: Runner) -> None:
        for failure in runner.failures:
            self._console.print(failure, markup=False, style="red")
        for log in sorted(self._log_dir.glob("*.log")):
            if any(failure.startswith(log.stem + " ") for failure in runner.failures):
                lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                self._console.print(f"--- end of {log}", *lines, sep="\n", markup=False)
        self._console.print(f"The nodes' logs are in {self._log_dir}", markup=False)


def _arguments(act: Act, out_dir: Path, checkpoint: Path) -> Arguments:
    given = {"backend": act.backend, "record": str(out_dir / act.name)}
    if not act.has_task:
        given["checkpoint"] = str(checkpoint)
    return resolve(given)


def _silent(_name: str, _line: str) -> None:
    """The nodes' output stays in their logs."""


def _clear(out_dir: Path) -> None:
    """Remove what an earlier demo wrote, and nothing else."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in (*(act.name for act in ACTS), "log", "checkpoint"):
        shutil.rmtree(out_dir / name, ignore_errors=True)
    for name in ("report.html", "demo.mp4", "bare_thread.json"):
        (out_dir / name).unlink(missing_ok=True)
    # Keeps colcon from crawling recordings for packages.
    (out_dir / "COLCON_IGNORE").touch()


def _make_checkpoint(folder: Path) -> Path:
    try:
        from wallx_policy.random_checkpoints import write_random_checkpoint
    except ModuleNotFoundError as error:
        raise UserError(
            f"the demo needs the Python module {error.name!r}: run `make setup`, or `make ros-env` "
            "on a ROS installation."
        ) from error
    return write_random_checkpoint(folder)


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """While the block runs, Ctrl-C and the like are only noted; yields whether one came."""
    received: list[int] = []

    def on_signal(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _measure(
    played: Mapping[Act, Arguments], out_dir: Path, baseline: Path, console: Console
) -> int:
    from wallx_policy.evidence import (
        ActFiles,
        measure_demo,
        render_table,
        write_figures,
        write_report,
        write_video,
    )

    files = [
        ActFiles(
            title=act.title,
            bag_dir=Path(arguments.record),
            limits_file=Path(arguments.limits_file),
            limits_profile=arguments.limits_profile,
            has_task=act.has_task,
            note=act.note,
        )
        for act, arguments in played.items()
    ]
    progress = Progress(console)

    def show(what: str, share: float) -> None:
        progress.show(f"{what} ({share:.0%})")

    with contextlib.closing(progress):
        measurement = measure_demo(files, baseline, show)
        figures = write_figures(measurement, out_dir)
        # First what everybody waits for: the pictures take some seconds more.
        console.print(render_table(measurement))
        report = write_report(measurement, out_dir, show)
        video = write_video(measurement, out_dir, show)
    console.print(
        f"\nreport: {report}\nvideo:  {video}\nfigures: {figures}\nbags:   {out_dir}", markup=False
    )
    return 0 if _succeeded(measurement) else 1


def _succeeded(measurement: DemoMeasurement) -> bool:
    """Whether the cube is in the tray and every figure could be measured.

    A bar that this machine misses is shown in the table; it is no failure of the demo.
    """
    from wallx_policy.evidence.rows import Verdict

    return not any(
        row.verdict is Verdict.MISSING or row.name == "cube in the tray"
        for _title, row in measurement.missed
    )
