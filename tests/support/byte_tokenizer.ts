/** A TextCodec without a vocabulary: ids 0-15 are special, id 16 + b is the byte b. */
import type { TextCodec } from "../../src/tokenizer.ts";

const FIRST_BYTE = 16;

export function byteTokenizer(): TextCodec {
  const stream = () => {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (ids: readonly number[]) =>
        ids.map((id) =>
          decoder.decode(
            id < FIRST_BYTE ? new Uint8Array(0) : Uint8Array.of(id - FIRST_BYTE),
            { stream: true },
          )
        ),
      flush: () => decoder.decode(),
    };
  };
  return {
    encode: (text) => Array.from(new TextEncoder().encode(text), (byte) => byte + FIRST_BYTE),
    longestToken: 1,
    stream,
    decode(ids) {
      const decoder = stream();
      return decoder.push(ids).join("") + decoder.flush();
    },
  };
}
