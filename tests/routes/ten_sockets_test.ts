import { assert, assertEquals } from "@std/assert";
import { type AnyFrame, eventually, openServer, openSocket } from "../support/serve.ts";

const SLOTS = 4;

/** What a socket does with its generations, by turns. */
const MANNERS = ["reads all", "cancels", "disconnects", "cancels and disconnects", "asks nonsense"];

Deno.test("ten sockets with cancels and disconnects leave no sequence, no slot and no timer", async () => {
  const faults: unknown[] = [];
  await using server = openServer({
    delayMs: 1,
    slots: SLOTS,
    app: { onFault: (error) => faults.push(error) },
  });
  const alone = await server.engine.generate("prompt 0", {
    maxTokens: 60,
    seed: 5,
    temperature: 1,
  });

  const visit = async (number: number): Promise<void> => {
    const manner = MANNERS[number % MANNERS.length];
    const socket = await openSocket(server.url);
    const ask = (id: string) =>
      socket.send({
        type: "generate",
        id,
        prompt: `prompt ${number}`,
        max_tokens: 60,
        seed: 5,
        temperature: 1,
      });
    ask("a");
    ask("b");
    ask("c");
    const draft = async () => {
      let frame = await socket.next();
      while (frame.type !== "draft") frame = await socket.next();
      return frame;
    };
    switch (manner) {
      case "reads all": {
        for (const id of ["a", "b", "c"]) {
          const frames = await socket.until(id);
          assertEquals(frames.at(-1)?.type, "end");
          if (number === 0) assertEquals(frames.at(-1)?.text, alone.text);
        }
        break;
      }
      case "cancels": {
        const { id } = await draft();
        for (const id of ["a", "b", "c"]) socket.send({ type: "cancel", id });
        const lasts: (AnyFrame | undefined)[] = [];
        for (const id of ["a", "b", "c"]) lasts.push((await socket.until(id)).at(-1));
        assert(lasts.some((last) => last?.code === "cancelled"), `${id} was under way`);
        break;
      }
      case "disconnects":
        await draft();
        break; // with three generations open
      case "cancels and disconnects":
        socket.send({ type: "cancel", id: "b" });
        await socket.until("b");
        break;
      case "asks nonsense":
        socket.raw.send("{");
        socket.send({ type: "cancel", id: "z" });
        ask("a");
        break; // and leaves at once
    }
    socket.raw.close();
    await socket.closed;
  };

  await Promise.all(Array.from({ length: 10 }, (_, number) => visit(number)));
  await eventually(() => server.engine.load.free === SLOTS, "every slot is free");
  assertEquals(server.engine.load, { running: 0, waiting: 0, free: SLOTS });
  assertEquals(server.session.liveSlots(), []);
  assertEquals(faults, []);
  const calls = server.session.calls;
  await new Promise((resolve) => setTimeout(resolve, 30));
  assertEquals(server.session.calls, calls, "the engine rests");
  const after = await server.engine.generate("prompt 0", {
    maxTokens: 60,
    seed: 5,
    temperature: 1,
  });
  assertEquals(after.text, alone.text);
  // Timers, sockets and promises left behind would fail this test by Deno's own sanitizers.
});
