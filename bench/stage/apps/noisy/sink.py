"""Takes every request and answers none: what a connection flood is aimed at. Standard library only."""

import asyncio
import signal


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(4096):
            pass
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main() -> None:
    await asyncio.start_server(take, "0.0.0.0", 8000, backlog=4096)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


asyncio.run(main())
