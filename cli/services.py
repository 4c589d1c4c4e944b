"""``ics up``, ``ics ingress``, ``ics consumer``, ``ics demo``: the commands that run the service.

What they run is imported when they run, so that the other commands start without it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from cli.last_words import told_as_its_log
from cli.options import ConfigOption, console
from cli.process import run_process
from cli.running import running
from cli.settings import settings_for


def up(config: ConfigOption = None) -> None:
    """Run everything in one process: broker (embedded unless configured), ingress and consumer.

    For one machine and for trying things out. Ctrl-C drains: what is being converted gets `timeouts.drain` seconds, the rest
    goes back to the queue.

    Example: `ics up --config config.yml`
    """
    from cli.parts import run_everything  # noqa: PLC0415

    with told_as_its_log(config, "up"):
        run_process(settings_for(config), "up", run_everything)


def ingress(config: ConfigOption = None) -> None:
    """Run an ingress: takes webhooks, answers 202 once the broker has confirmed, serves status API and console.

    Any number of replicas may run behind a load balancer.

    Example: `ICS_BROKER__URL=amqp://ics:secret@rabbitmq/ ics ingress`
    """
    from cli.parts import run_ingress  # noqa: PLC0415

    with told_as_its_log(config, "ingress"):
        run_process(settings_for(config), "ingress", run_ingress)


def consumer(config: ConfigOption = None) -> None:
    """Run a consumer: takes up to `maximum_concurrency` requests at once, converts, pushes, acknowledges.

    Any number of consumers may share a queue. SIGTERM drains.

    Example: `ICS_BROKER__URL=amqp://ics:secret@rabbitmq/ ics consumer`
    """
    from cli.parts import run_consumer_alone  # noqa: PLC0415

    with told_as_its_log(config, "consumer"):
        run_process(settings_for(config), "consumer", run_consumer_alone)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards, until Ctrl-C.")] = False,
) -> None:
    """Convert a real image on this machine: registry, broker, ingress and consumer included.

    An image is made of this machine's Python, pushed to a development registry, and announced by the webhook that Harbor
    would send. Nothing is left behind.

    Example: `ics demo --keep`
    """
    from cli.demo import run_demo  # noqa: PLC0415

    with running() as runner:
        runner.run(run_demo(console(markup=True), keep=keep))
