/** A span of a canvas as readers see it: the text of each position, and the tokens of a frame. */
import { type Canvas, MASKED, type Span } from "./block.ts";
import type { FrameToken, TokenState } from "./frame.ts";
import type { TextCodec } from "./tokenizer.ts";

/** Tokens before a block that its drafts are decoded after: a character spans at most so many. */
const DECODE_CONTEXT = 4;

const STATE_NAMES: readonly TokenState[] = ["given", "masked", "unmasked"];

/** Text of each position, decoded after what stands before the span; a mask breaks characters. */
export function blockTexts(
  { ids, states }: Canvas,
  { start, end }: Span,
  codec: TextCodec,
): string[] {
  const stream = codec.stream();
  stream.push(Array.from(ids.subarray(Math.max(0, start - DECODE_CONTEXT), start)));
  return Array.from({ length: end - start }, (_, i) => {
    if (states[start + i] !== MASKED) return stream.push([ids[start + i]])[0];
    stream.flush();
    return "";
  });
}

/** The tokens of a frame that shows the span with these texts. */
export function frameTokens(
  { ids, states, confidences }: Canvas,
  { start }: Span,
  texts: readonly string[],
): FrameToken[] {
  return texts.map((text, i) => ({
    id: ids[start + i],
    text,
    state: STATE_NAMES[states[start + i]],
    confidence: confidences[start + i],
  }));
}
