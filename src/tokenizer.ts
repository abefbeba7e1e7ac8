/** Text to ids and back, over @huggingface/tokenizers; decoding also piece by piece. */
import { Tokenizer } from "@huggingface/tokenizers";
import { EngineError, messageOf } from "./errors.ts";

/** What the engine needs of a tokenizer. */
export interface TextCodec {
  /** Ids of a plain text: what looks like a special token stays text. */
  encode(text: string): number[];
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

/** The parts of tokenizer.json that are read here; the library reads the rest. */
interface TokenizerJson {
  readonly added_tokens?: readonly {
    readonly id: number;
    readonly content: string;
    readonly special?: boolean;
  }[];
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
  const special = new Set(added.filter((token) => token.special).map((token) => token.id));
  let plain: Tokenizer, full: Tokenizer;
  try {
    full = new Tokenizer(json, tokenizerConfig as object);
    // Without its special tokens the encoder cannot find them in a prompt.
    plain = new Tokenizer(
      { ...json, added_tokens: added.filter((token) => !token.special) },
      tokenizerConfig as object,
    );
  } catch (cause) {
    throw new EngineError("bundle_invalid", `tokenizer.json: ${messageOf(cause)}`, { cause });
  }
  const encode = (text: string) => [...plain.encode(text, { add_special_tokens: false }).ids];
  const byteLevel = [json.decoder?.type, ...(json.decoder?.decoders ?? []).map((d) => d.type)]
    .includes("ByteLevel");
  const stream = byteLevel
    ? byteLevelStream(full, special, new Map(added.map((token) => [token.id, token.content])))
    : genericStream(full);
  let longestToken = 1;
  for (const token of full.get_vocab().keys()) longestToken = Math.max(longestToken, token.length);
  return {
    encode,
    longestToken,
    stream,
    decode(ids) {
      const decoder = stream();
      return decoder.push(ids).join("") + decoder.flush();
    },
  };
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
