/** A TextCodec without a vocabulary: ids 0-15 are special and written `<|0|>` to `<|15|>`, id 16 + b is the byte b. */
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
  const encode = (text: string) =>
    Array.from(new TextEncoder().encode(text), (byte) => byte + FIRST_BYTE);
  return {
    encode,
    encodeWithSpecials: (text, restore = (text) => text) =>
      text.split(/<\|(\d|1[0-5])\|>/).flatMap((part, i) =>
        i % 2 === 1 ? [Number(part)] : encode(restore(part))
      ),
    specialTokens: Array.from({ length: FIRST_BYTE }, (_, id) => `<|${id}|>`),
    namedTokens: { eos_token: "<|2|>", bos_token: "<|6|>" },
    longestToken: 1,
    stream,
    decode(ids) {
      const decoder = stream();
      return decoder.push(ids).join("") + decoder.flush();
    },
  };
}
