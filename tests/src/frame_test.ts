import { assertEquals, assertRejects } from "@std/assert";
import { type Frame, FrameQueue } from "../../src/frame.ts";
import { stopText } from "../../src/stop_text.ts";

const draft = (block: number, step: number): Frame => ({
  type: "draft",
  block,
  start: 0,
  step,
  tokens: [],
  text: "",
});
const commit = (block: number): Frame => ({
  type: "commit",
  block,
  start: 0,
  text: "x",
  tokens: [],
});

async function names(frames: AsyncIterable<Frame>): Promise<string[]> {
  const all: string[] = [];
  for await (const f of frames) {
    all.push(f.type + ("block" in f ? f.block : "") + ("step" in f ? `.${f.step}` : ""));
  }
  return all;
}

Deno.test("FrameQueue gives a slow reader the newest draft and every commit", async () => {
  const queue = new FrameQueue();
  for (const step of [1, 2, 3]) queue.push(draft(0, step));
  queue.push(commit(0));
  for (const step of [1, 2]) queue.push(draft(1, step));
  queue.push(commit(1));
  queue.push(draft(2, 1));
  queue.push(draft(2, 2));
  queue.close();
  assertEquals(await names(queue.read()), ["commit0", "commit1", "draft2.2"]);
});

Deno.test("FrameQueue gives a quick reader every frame", async () => {
  const queue = new FrameQueue();
  const reading = names(queue.read());
  for (const frame of [draft(0, 1), draft(0, 2), commit(0)]) {
    queue.push(frame);
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  queue.close();
  assertEquals(await reading, ["draft0.1", "draft0.2", "commit0"]);
});

Deno.test("FrameQueue delivers what waits before it throws", async () => {
  const queue = new FrameQueue();
  queue.push(commit(0));
  queue.close({ error: new Error("lost") });
  queue.push(commit(1));
  const seen: string[] = [];
  await assertRejects(
    async () => {
      for await (const frame of queue.read()) seen.push(frame.type);
    },
    Error,
    "lost",
  );
  assertEquals(seen, ["commit"]);
});

Deno.test("stopText() finds a stop string at every split, and gives out all text before it", () => {
  const text = "if (a) {\n  b;\n}\n\nfunction", stop = "\n}\n";
  for (let i = 0; i <= text.length; i++) {
    for (let j = i; j <= text.length; j++) {
      const finder = stopText([stop, "never"]);
      let taken = "", stopped = false;
      for (const piece of [text.slice(0, i), text.slice(i, j), text.slice(j)]) {
        stopped ||= finder.push(piece);
        taken += finder.take();
      }
      assertEquals([stopped, taken + finder.takeAll()], [true, text.slice(0, text.indexOf(stop))]);
    }
  }
});

Deno.test("stopText() holds back only what may still become a stop string", () => {
  const finder = stopText(["abc"]);
  finder.push("xxab");
  assertEquals(finder.take(), "xx");
  finder.push("d");
  assertEquals(finder.take(), "abd");
});
