/**
 * How often the quantised bundle and the float32 checkpoint name the same most likely token, at masked positions of held-out
 * text: `deno task agreement`. The figure in the model card comes from here.
 */
import { parseArgs } from "node:util";
import { BACKENDS } from "../../src/backend/backend.ts";
import { type Bundle, loadBundle } from "../../src/loader.ts";
import { randomFrom } from "../../src/random.ts";
import { openSession } from "../../src/session.ts";
import { loadTokenizer } from "../../src/tokenizer.ts";
import { floatBundle, TINY } from "../support/tiny.ts";

const BLOCK_LENGTH = 16;

/** Share of masked positions on which both bundles agree; every second document position in its block is masked. */
export async function agreement(
  backend: typeof BACKENDS[number],
  documents: number,
): Promise<{ readonly positions: number; readonly share: number }> {
  const quantized = await loadBundle(TINY);
  const codec = loadTokenizer(quantized.tokenizerJson, quantized.tokenizerConfig);
  const heldout = JSON.parse(await Deno.readTextFile(new URL("heldout.json", TINY)));
  const texts: string[] = heldout.documents.map((d: { text: string }) => d.text);
  const open = ({ manifest, weights }: Bundle) =>
    openSession({
      manifest,
      weights,
      backends: [backend],
      options: { threads: 2, softwareAdapter: true },
    });
  const [a, b] = [await open(quantized), await open(await floatBundle())];
  const { mask, bos } = quantized.manifest.tokens;
  let positions = 0, same = 0;
  for (const [index, text] of texts.slice(0, documents).entries()) {
    const ids = [...(bos === undefined ? [] : [bos]), ...codec.encode(text)].slice(0, 256);
    const random = randomFrom(index);
    for (let start = 0; start + BLOCK_LENGTH <= ids.length; start += BLOCK_LENGTH) {
      const block = ids.slice(start, start + BLOCK_LENGTH);
      const rows = block.map((_, i) => i).filter(() => random() < 0.5);
      if (rows.length === 0) continue;
      const input = {
        slot: 0,
        start: 0,
        ids: [...ids.slice(0, start), ...block.map((id, i) => rows.includes(i) ? mask : id)],
        blockLength: BLOCK_LENGTH,
        keep: 0,
        rows: rows.map((row) => start + row),
      };
      const [[x], [y]] = await Promise.all([a.forward([input]), b.forward([input])]);
      rows.forEach((_, n) => {
        positions++;
        if (x.ids[n * x.width] === y.ids[n * y.width]) same++;
      });
    }
  }
  await a.close();
  await b.close();
  return { positions, share: same / positions };
}

if (import.meta.main) {
  const { values } = parseArgs({
    args: Deno.args,
    options: { backend: { type: "string", default: "wasm" } },
  });
  const backend = BACKENDS.find((name) => name === values.backend);
  if (backend === undefined) throw new Error(`--backend must be one of ${BACKENDS.join(", ")}`);
  const { positions, share } = await agreement(backend, Infinity);
  console.log(
    `${backend}: q8 and fp32 name the same token at ${(share * 100).toFixed(2)} % of ` +
      `${positions} masked held-out positions, block length ${BLOCK_LENGTH}`,
  );
}
