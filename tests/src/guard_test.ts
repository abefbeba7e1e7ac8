import { assert, assertEquals, assertThrows } from "@std/assert";
import { EngineError } from "../../src/errors.ts";
import { guardsOf } from "../../src/guard.ts";
import { randomFrom } from "../../src/random.ts";

const TOKENS = ["<|end|>", "<|end|>x", "</s>", "<s>", "[S]"];

Deno.test("no joining, trimming or JSON of guarded strings makes a token, and all come back", () => {
  const random = randomFrom(5);
  const pieces = [..."<|end>x/s[S] \n", "<|", "|>", "</", "end", ...TOKENS, "\ue000", "\uf8ff"];
  const text = () =>
    Array.from({ length: Math.floor(random() * 7) }, () => {
      return pieces[Math.floor(random() * pieces.length)];
    }).join("");
  let dangerous = 0;
  for (let round = 0; round < 5000; round++) {
    const { guard, restore } = guardsOf(TOKENS, "a template with \ue001")();
    const texts = [text(), text(), text()];
    const guarded = guard(texts, "texts");
    const joins = [
      (parts: string[]) => parts.join(""),
      (parts: string[]) => parts.map((part) => part.trim()).join(""),
      (parts: string[]) => JSON.stringify(parts),
    ];
    for (const join of joins) {
      const rendered = join(guarded);
      assert(!TOKENS.some((token) => rendered.includes(token)), JSON.stringify(texts));
      assertEquals(restore(rendered), join(texts));
      if (TOKENS.some((token) => join(texts).includes(token))) dangerous++;
    }
  }
  assert(dangerous > 1000, "many must hold a token where nothing guards them");
});

Deno.test("a guard leaves harmless text, and the edges of names, as they are", () => {
  const { guard } = guardsOf(TOKENS, "")();
  const value = { "a<": [1, null, true, undefined, "a < b > c", ""], b: { c: "plain |end|" } };
  assertEquals(guard(value, "value"), value);
  assertEquals(Object.keys(guard({ "<s>": 1, "x<s>": 2 }, "value")).join().includes("<s>"), false);
});

Deno.test("a guard does without tokens, and keeps private characters", () => {
  const { guard, restore } = guardsOf([], "")();
  assertEquals(guard("<s>", "text"), "<s>");
  assertEquals(restore(guard("\ue001\ue000\ue000", "text")), "\ue001\ue000\ue000");
});

Deno.test("a guard refuses what is no JSON, and names the value", () => {
  const { guard } = guardsOf(TOKENS, "")();
  const nested = (depth: number): unknown => depth === 0 ? "deep" : [nested(depth - 1)];
  assertEquals(guard(nested(64), "tools"), nested(64));
  const every = Array.from({ length: 6401 }, (_, i) => String.fromCharCode(0xe000 + i % 6400));
  for (
    const [value, fact] of [
      [nested(65), "tools: is nested more than 64 deep"],
      [{ a: () => 1 }, "tools: holds a function"],
      [[1n], "tools: holds a bigint"],
      [[...every, "<s>"], "too many private characters"],
    ] as const
  ) {
    const error = assertThrows(() => guard(value, "tools"), EngineError, fact);
    assertEquals(error.code, "invalid_request");
  }
});
