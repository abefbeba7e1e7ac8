import { loadEngine } from "./src/mod.ts";

await using engine = await loadEngine("./models/tiny");

const { text } = await engine.generate("function isString(", { maxTokens: 60 });
console.log(text);

for await (const frame of engine.stream("export function isEmpty(", { seed: 1 })) {
  if (frame.type === "commit") console.log("block", frame.block, JSON.stringify(frame.text));
}
