/** Text to ids and back, over @huggingface/tokenizers; decoding also piece by piece. */
import { Tokenizer } from "@huggingface/tokenizers";
import { EngineError, messageOf } from "./errors.ts";

/** What the engine needs of a tokenizer. */
export interface TextCodec {
  /** Ids of a plain text: what looks like a special token stays text. */
  encode(text: string): number[];
  /**
   * Ids of a text whose special tokens are meant as such.
   *
   * @param restore applied to the text between special tokens before that is encoded: what it brings back stays text
   */
  encodeWithSpecials(text: string, restore?: (text: string) => string): number[];
  /** Texts of the special tokens. */
  readonly specialTokens: readonly string[];
  /** The texts that tokenizer_config.json gives names to: `bos_token`, `eos_token`, `pad_token` and their like. */
  readonly namedTokens: Readonly<Record<string, string>>;
  /** Characters (UTF-16 units) that one token stands for at most: a bound that needs no encoding. */
  readonly longestToken: number;
  /** Text of `ids`; special tokens are dropped. */
  decode(ids: readonly number[]): string;
  /** A decoder of its own for ids that arrive one after another. */
  stream(): TextStream;
}

/** Decodes ids that arrive one after another. */
export interface TextStream {
  /**
   * One text for each id. A token that ends inside a character adds "" and the character belongs to the token that completes
   * it, so the texts concatenated are always whole characters.
   */
  push(ids: readonly number[]): string[];
  /** What is left: U+FFFD for a character that was never completed. */
  flush(): string;
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  /** Whether the white space before it, and behind it, is part of it. */
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
}

/** The parts of tokenizer.json that are read here; the library reads the rest. */
interface TokenizerJson {
  readonly added_tokens?: readonly AddedToken[];
  readonly pre_tokenizer?: unknown;
  readonly decoder?: { readonly type?: string; readonly decoders?: readonly { type?: string }[] };
}

/**
 * Loads a tokenizer from the parsed contents of `tokenizer.json` and `tokenizer_config.json`.
 *
 * @throws {EngineError} `bundle_invalid`
 */
export function loadTokenizer(tokenizerJson: unknown, tokenizerConfig: unknown): TextCodec {
  const json = tokenizerJson as TokenizerJson; // a foreign format: its library reports what is wrong
  const added = json.added_tokens ?? [];
  const specials = added.filter((token) => token.special);
  const special = new Set(specials.map((token) => token.id));
  let plain: Tokenizer, inner: Tokenizer, full: Tokenizer;
  try {
    full = new Tokenizer(json, tokenizerConfig as object);
    // Without its special tokens the encoder cannot find them in a prompt.
    const ordinary = { ...json, added_tokens: added.filter((token) => !token.special) };
    plain = new Tokenizer(ordinary, tokenizerConfig as object);
    const behind = behindStart(json.pre_tokenizer);
    inner = behind === undefined
      ? plain
      : new Tokenizer({ ...ordinary, pre_tokenizer: behind }, tokenizerConfig as object);
  } catch (cause) {
    throw new EngineError("bundle_invalid", `tokenizer.json: ${messageOf(cause)}`, { cause });
  }
  const encode = (text: string, tokenizer = plain) =>
    text === "" ? [] : [...tokenizer.encode(text, { add_special_tokens: false }).ids];
  const byteLevel = [json.decoder?.type, ...(json.decoder?.decoders ?? []).map((d) => d.type)]
    .includes("ByteLevel");
  const split = splitter(specials);
  const idOf = new Map(specials.map((token) => [token.content, token.id]));
  const stream = byteLevel
    ? byteLevelStream(full, special, new Map(added.map((token) => [token.id, token.content])))
    : genericStream(full);
  let longestToken = 1;
  for (const token of full.get_vocab().keys()) longestToken = Math.max(longestToken, token.length);
  return {
    encode: (text) => encode(text),
    encodeWithSpecials: (text, restore = (text) => text) =>
      split(text).flatMap((part, i) => {
        const id = i % 2 === 1 ? idOf.get(part) : undefined;
        return id === undefined ? encode(restore(part), i === 0 ? plain : inner) : [id];
      }),
    specialTokens: specials.map((token) => token.content),
    namedTokens: namedTokens(tokenizerConfig),
    longestToken,
    stream,
    decode(ids) {
      const decoder = stream();
      return decoder.push(ids).join("") + decoder.flush();
    },
  };
}

/** Splits a text at these tokens, the longest of those that begin at a place: even parts lie between, odd ones are tokens. */
function splitter(tokens: readonly AddedToken[]): (text: string) => string[] {
  const known = new Map(tokens.filter(({ content }) => content !== "").map((t) => [t.content, t]));
  if (known.size === 0) return (text) => [text];
  const alternatives = [...known.keys()].sort((a, b) => b.length - a.length)
    .map(RegExp.escape);
  const pattern = new RegExp(`(${alternatives.join("|")})`);
  return (text) => {
    const parts = text.split(pattern);
    for (let i = 1; i < parts.length; i += 2) {
      const { lstrip, rstrip } = known.get(parts[i])!; // the pattern finds no others
      if (lstrip) parts[i - 1] = parts[i - 1].trimEnd();
      if (rstrip) parts[i + 1] = parts[i + 1].trimStart();
    }
    return parts;
  };
}

/**
 * The pre-tokenizer for text that is not the first, undefined where there is no difference: some put a space before the
 * very first word only.
 */
function behindStart(preTokenizer: unknown): unknown {
  let differs = false;
  const json = JSON.stringify(preTokenizer ?? null, (key, value) => {
    if (key !== "prepend_scheme" || value !== "first") return value;
    differs = true;
    return "never";
  });
  return differs ? JSON.parse(json) : undefined;
}

function namedTokens(tokenizerConfig: unknown): Record<string, string> {
  const named: Record<string, string> = {};
  for (const [name, value] of Object.entries(tokenizerConfig ?? {})) {
    const text: unknown = value?.content ?? value;
    if (name.endsWith("_token") && typeof text === "string") named[name] = text;
  }
  return named;
}

/** The 256 characters that byte-level BPE (GPT-2) writes bytes as, by code point. */
function byteAlphabet(): Map<string, number> {
  const printable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let shifted = 256;
  return new Map(Array.from({ length: 256 }, (_, byte) => {
    return [String.fromCodePoint(printable(byte) ? byte : shifted++), byte];
  }));
}

/** Exact decoding of byte-level tokens: bytes first, characters as they complete. */
function byteLevelStream(
  tokenizer: Tokenizer,
  special: ReadonlySet<number>,
  added: ReadonlyMap<number, string>,
): () => TextStream {
  const alphabet = byteAlphabet();
  const utf8 = new TextEncoder();
  const known = new Map<number, Uint8Array>();
  const bytesOf = (id: number): Uint8Array => {
    let bytes = known.get(id);
    if (bytes === undefined) {
      const text = special.has(id) ? "" : tokenizer.id_to_token(id) ?? "";
      bytes = added.has(id)
        ? utf8.encode(text)
        : Uint8Array.from([...text].map((char) => alphabet.get(char) ?? 0xff)); // never in UTF-8
      known.set(id, bytes);
    }
    return bytes;
  };
  return () => {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (ids) => ids.map((id) => decoder.decode(bytesOf(id), { stream: true })),
      flush: () => decoder.decode(),
    };
  };
}

/** Ids that are decoded again before a new one, so that spaces and joins come out as they would in the whole. */
const CONTEXT = 6;

/** Decoding of any tokenizer: decode a window with and without the new id, and hold back U+FFFD at the end. */
function genericStream(tokenizer: Tokenizer): () => TextStream {
  const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
  const decode = (ids: number[]) => ids.length === 0 ? "" : tokenizer.decode(ids, options);
  return () => {
    let window: number[] = [];
    let told = 0; // characters of the window's text that were given out
    return {
      push: (ids) =>
        ids.map((id) => {
          window.push(id);
          const text = decode(window);
          if (text.endsWith("\ufffd")) return "";
          const piece = text.slice(told);
          if (window.length > 2 * CONTEXT) window = window.slice(-CONTEXT);
          told = decode(window).length;
          return piece;
        }),
      flush() {
        const rest = decode(window).slice(told);
        window = [];
        told = 0;
        return rest;
      },
    };
  };
}
