import { assert, assertEquals, assertThrows } from "@std/assert";
import { Tokenizer } from "@huggingface/tokenizers";
import { EngineError } from "../../src/errors.ts";
import { randomFrom } from "../../src/random.ts";
import { loadTokenizer, type TextCodec } from "../../src/tokenizer.ts";

const folder = new URL("../../models/tiny/", import.meta.url);
const readJson = (name: string) => JSON.parse(Deno.readTextFileSync(new URL(name, folder)));
const json = readJson("tokenizer.json");
const codec = loadTokenizer(json, readJson("tokenizer_config.json"));

const TEXTS = [
  "function isString(value) {\n  return typeof value === 'string';\n}\n",
  "héllo 🙂 wörld – ünïcode ✓ 👩‍👩‍👧 日本語",
  "\ttabs\r\nand  double  spaces   \n\n\n",
  " leading and trailing ",
  "don't change , punctuation . spacing !",
  "\ufeffbyte order mark",
];

function streamed(codec: TextCodec, ids: readonly number[]): { pieces: string[]; rest: string } {
  const stream = codec.stream();
  return { pieces: ids.flatMap((id) => stream.push([id])), rest: stream.flush() };
}

Deno.test("tokenizer round-trips text, whole and token by token", () => {
  for (const text of TEXTS) {
    const ids = codec.encode(text);
    assertEquals(codec.decode(ids), text);
    const { pieces, rest } = streamed(codec, ids);
    assertEquals([pieces.join(""), rest], [text, ""]);
  }
});

Deno.test("tokenizer gives a character to the token that completes it", () => {
  const ids = codec.encode("🙂");
  assert(ids.length > 1, "the emoji must span tokens for this test");
  const { pieces } = streamed(codec, ids);
  assertEquals(pieces, [...new Array(ids.length - 1).fill(""), "🙂"]);
});

Deno.test("tokenizer streams any ids to exactly what it decodes at once", () => {
  const random = randomFrom(4);
  const { vocab } = json.model;
  const size = Object.keys(vocab).length;
  for (let round = 0; round < 200; round++) {
    const ids = Array.from({ length: 40 }, () => Math.floor(random() * size));
    const { pieces, rest } = streamed(codec, ids);
    assertEquals(pieces.length, ids.length);
    assertEquals(pieces.join("") + rest, codec.decode(ids));
  }
});

Deno.test("tokenizer keeps text that looks like a special token as text", () => {
  const special = new Set(json.added_tokens.map((token: { id: number }) => token.id));
  assert(special.size > 0);
  for (const { content } of json.added_tokens) {
    const text = `a${content}b ${content}`;
    const ids = codec.encode(text);
    assert(!ids.some((id) => special.has(id)), content);
    assertEquals(codec.decode(ids), text);
  }
});

Deno.test("tokenizer finds the special tokens of a text as its library does", () => {
  const [plain, config] = [["a", " b\n"], readJson("tokenizer_config.json")];
  const library = new Tokenizer(json, config);
  const tokens = codec.specialTokens;
  assertEquals(tokens.length, json.added_tokens.length);
  for (const token of tokens) {
    for (const text of [token, `a${token}`, `${token} b`, plain.join(token + token), "plain", ""]) {
      const ids = text === "" ? [] : library.encode(text, { add_special_tokens: false }).ids;
      assertEquals(codec.encodeWithSpecials(text), ids);
    }
  }
  const end = tokens[0];
  const hidden = codec.encodeWithSpecials(`a#b${end}`, (text) => text.replaceAll("#", end));
  assertEquals(hidden, [...codec.encode(`a${end}b`), 0]);
});

Deno.test("tokenizer knows which texts have names", () => {
  assertEquals(codec.namedTokens, {
    bos_token: "<|endoftext|>",
    eos_token: "<|endoftext|>",
    pad_token: "<|pad|>",
    mask_token: "<|mask|>",
  });
  const config = {
    eos_token: { content: "</s>", lstrip: false },
    bos_token: null,
    add_bos_token: true,
  };
  assertEquals(loadTokenizer(json, config).namedTokens, { eos_token: "</s>" });
});

Deno.test("tokenizer lets special tokens take white space, and puts a first space only first", () => {
  const words = ["<s>", "<s>x", "<pad>", "▁a", "a", "b", "▁", "▁b", "?"];
  const sentencepiece = {
    version: "1.0",
    added_tokens: [
      { id: 0, content: "<s>", special: true, rstrip: true },
      { id: 1, content: "<s>x", special: true },
      { id: 2, content: "<pad>", special: true, lstrip: true, rstrip: true },
    ],
    normalizer: null,
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: true },
    post_processor: null,
    model: {
      type: "BPE",
      vocab: Object.fromEntries(words.map((word, id) => [word, id])),
      merges: [["▁", "a"], ["▁", "b"]],
      unk_token: "?",
    },
    decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "first" },
  };
  const codec = loadTokenizer(sentencepiece, {});
  const library = new Tokenizer(sentencepiece, {});
  const cases: [string, number[]][] = [
    ["a<s>b", [3, 0, 5]],
    ["<s>  b b", [0, 5, 7]],
    ["a <s>xb", [3, 6, 1, 5]],
    ["a <pad> b", [3, 2, 5]],
  ];
  for (const [text, ids] of cases) {
    assertEquals(codec.encodeWithSpecials(text), ids, text);
    assertEquals(library.encode(text, { add_special_tokens: false }).ids, ids, text);
  }
});

Deno.test("tokenizer drops special tokens from decoded text", () => {
  const ids = [0, ...codec.encode("a"), 2, ...codec.encode("b"), 0];
  assertEquals(codec.decode(ids), "ab");
});

Deno.test("a tokenizer without byte-level tokens streams by comparing texts", () => {
  const vocab: Record<string, number> = { "<s>": 0, "▁a": 1, "▁b": 2, c: 3 };
  for (let b = 0; b < 256; b++) {
    vocab[`<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`] = 4 + b;
  }
  const sentencepiece = loadTokenizer({
    version: "1.0",
    added_tokens: [{ id: 0, content: "<s>", special: true }],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    model: { type: "BPE", vocab, merges: [], byte_fallback: true, unk_token: "<s>" },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
      ],
    },
  }, {});
  const ids = [1, 2, 3, ...[...new TextEncoder().encode("é🙂")].map((b) => 4 + b), 1];
  const { pieces, rest } = streamed(sentencepiece, ids);
  assertEquals(pieces.join("") + rest, " a bcé🙂 a");
  assert(!pieces.join("").includes("\ufffd"));
  const torn = streamed(sentencepiece, [1, 4 + 0xc3]);
  assertEquals(torn.pieces.join("") + torn.rest, sentencepiece.decode([1, 4 + 0xc3]));
});

Deno.test("loadTokenizer() names the file when it cannot be used", () => {
  const error = assertThrows(() => loadTokenizer({ model: { type: "Alien" } }, {}), EngineError);
  assertEquals(error.code, "bundle_invalid");
  assert(error.message.includes("tokenizer.json"));
});
