"""Change parameters, update an extension, restart two instances one after the other, and watch.

    python rollout.py parameters INSTANCE NAME=VALUE...
    python rollout.py extension INSTANCE DATABASE EXTENSION [VERSION]
    python rollout.py restart STANDBY PRIMARY
    python rollout.py watch INSTANCE

INSTANCE is the path of a control socket, or https://HOST:PORT with TOKEN_FILE and CA_FILE in the
environment. The exit code is 0 if everything was done, else 1; it stops at the first failure.

Only ``watch`` follows events. The others wait for an operation and ask a probe: these say what is
the case, also where a connection was cut or the manager began anew; an event says what was.
"""

import asyncio
import os
import sys
import uuid
from contextlib import aclosing
from pathlib import Path

from instance_manager.client import (
    AnswerError,
    Client,
    ClientError,
    InvalidRequestError,
    Operation,
    OperationConflictError,
    StaleTagError,
    StreamNotice,
    UnreachableError,
    client_context,
)

WAIT_SECONDS = 120.0
TRIES = 5


class FailedError(Exception):
    """What was asked for was not done; the text says why."""


def connect(instance: str) -> Client:
    """Return a client for a socket on this machine, or for an address with TLS."""
    if not instance.startswith("https://"):
        return Client.unix(Path(instance))
    token = file_in("TOKEN_FILE").read_text(encoding="utf-8").strip()
    return Client.tcp(instance, token=token, tls=client_context(ca_file=file_in("CA_FILE")))


def file_in(variable: str) -> Path:
    """Return the file that a variable of the environment names."""
    if variable not in os.environ:
        raise FailedError(f"{variable} is not set, which names a file")
    return Path(os.environ[variable])


def require_success(operation: Operation, what: str) -> None:
    """Fail where an operation has failed, or goes on for too long; it does go on then."""
    if operation.error is not None:
        hint = operation.error.hint or "see the log"
        raise FailedError(f"{what} has failed: {operation.error.detail}\n  {hint}")
    if operation.state != "succeeded":
        raise FailedError(f"{what} is {operation.state}: see operation {operation.id}")


async def set_parameters(client: Client, wanted: dict[str, str]) -> None:
    """Change parameters; others may change the configuration at the same time."""
    for _ in range(TRIES):
        document, etag = await client.configuration()
        changed = document.model_copy(update={"parameters": document.parameters | wanted})
        plan = await client.rehearse_configuration(changed)
        for change in plan.changes:
            print(f"{change.name}: {change.old} -> {change.new} ({change.action})")
        try:
            done = await client.put_configuration(changed, etag)
        except StaleTagError:
            print("somebody else has changed the configuration: again")
            continue
        print(
            f"in force; still to be done: {'a restart' if done.action == 'restart' else 'nothing'}"
        )
        return
    raise FailedError("others change the configuration all the time")


async def update_extension(
    client: Client, database: str, extension: str, version: str | None
) -> None:
    """Rehearse an update, and do it if that went well."""
    rehearsal = await client.rehearse_update(database, extension, version=version)
    print(f"{extension} {' -> '.join(rehearsal.path)}: {rehearsal.outcome}")
    for lock in rehearsal.locks or ():
        print(f"  takes {lock.mode} on {lock.object}")
    if rehearsal.failure is not None:
        raise FailedError(f"the rehearsal failed: {rehearsal.failure.message}")
    if not rehearsal.rolled_back:
        raise FailedError("the rehearsal left something behind: look before you go on")
    operation = await client.update_extension(
        database,
        extension,
        version=rehearsal.to_version,
        idempotency_key=uuid.uuid4().hex,
        wait_seconds=WAIT_SECONDS,
    )
    require_success(operation, f"the update of {extension}")
    print(f"{extension} is {rehearsal.to_version}")


async def begin_restart(client: Client, name: str) -> Operation:
    """Restart an instance, and wait for the end, for a while."""
    # One key for all tries: where an answer was lost, the same request begins nothing new.
    key = uuid.uuid4().hex
    last: ClientError | None = None
    for _ in range(TRIES):
        try:
            status = await client.status()
            if status.desired != "running":
                # A restart would start it, which is for whoever stopped it to decide.
                raise FailedError(f"somebody wants {name} to be {status.desired}")
            return await client.restart(idempotency_key=key, wait_seconds=WAIT_SECONDS)
        except UnreachableError as error:
            last = error
            await asyncio.sleep(1)
        except OperationConflictError as error:
            last, other = error, error.problem.operation
            if other is None:
                raise  # nothing is under way: waiting would not help
            print(f"operation {other} is in the way: waiting for its end", flush=True)
            await client.operation(other, wait_seconds=WAIT_SECONDS)
    raise last or FailedError("nothing was tried")


async def restart(client: Client, name: str) -> None:
    """Restart one instance, and wait until clients may be sent there again."""
    operation = await begin_restart(client, name)
    require_success(operation, f"the restart of {name}")
    async with asyncio.timeout(WAIT_SECONDS):
        while (await client.probe("readyz")).status != "ok":
            await asyncio.sleep(0.5)
    configuration = (await client.status()).configuration
    if configuration.errors:
        # It runs with the last configuration that worked.
        raise FailedError(
            f"{name} has refused its configuration: {configuration.errors[0].message}"
        )
    if configuration.pending_restart:
        raise FailedError(f"{name} waits for {configuration.pending_restart[0].name} still")
    print(f"{name} is ready")


async def watch(client: Client) -> None:
    """Show what somebody should look at, also over new starts of the manager, for ever."""
    async with aclosing(client.follow_events()) as events:
        async for event in events:
            if isinstance(event, StreamNotice):
                print(f"something was missed: {event.reason}", flush=True)
            elif event.type == "Warning":
                print(f"{event.time:%H:%M:%S} {event.reason}: {event.message}", flush=True)


async def main(command: str, *arguments: str) -> None:
    """Do one of the four."""
    match command, arguments:
        case "parameters", (instance, *pairs) if pairs and all("=" in pair for pair in pairs):
            async with connect(instance) as client:
                await set_parameters(client, dict(pair.split("=", 1) for pair in pairs))
        case "extension", (instance, database, extension, *version):
            async with connect(instance) as client:
                wanted = version[0] if version else None
                await update_extension(client, database, extension, wanted)
        case "restart", (standby, primary):
            for instance in (standby, primary):
                async with connect(instance) as client:
                    await restart(client, instance)
        case "watch", (instance,):
            async with connect(instance) as client:
                await watch(client)
        case _:
            raise FailedError(str(__doc__))


def explain(error: Exception) -> str:
    """Return what went wrong, and what to do about it, in as many lines as it takes."""
    match error:
        case InvalidRequestError():
            found = [f"{one.path}: {one.message}" for one in error.problem.errors or ()]
            # The message about a configuration is all of them in one line.
            is_list = error.problem.code == "settings-invalid"
            first = "the configuration is wrong:" if is_list else error.message
            return "\n  ".join([first, *found])
        case OperationConflictError() if error.problem.operation:
            return f"{error.message} (operation {error.problem.operation} is under way)"
        case AnswerError():
            return f"{error.message} ({error.problem.code})\n  {error.hint}".rstrip()
        case ClientError():
            return f"{error.message}\n  {error.hint}".rstrip()
        case TimeoutError():
            return "it did not become ready in time: see its status"
        case _:
            return str(error)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:] or [""]))
    except (ClientError, FailedError, TimeoutError, OSError, ValueError) as failure:
        sys.exit(explain(failure))
    except KeyboardInterrupt:
        sys.exit(130)
