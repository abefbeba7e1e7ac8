/** Where a checkpoint keeps its chat template. */
import * as v from "valibot";
import { compileTemplate } from "../jinja.ts";
import { EngineError, messageOf } from "../errors.ts";
import type { Checkpoint } from "./checkpoint.ts";

const FieldSchema = v.nullish(v.union([
  v.string(),
  v.array(v.object({ name: v.string(), template: v.string() })),
]));

/**
 * The template of chat_template.jinja, or else of tokenizer_config.json: one text, or a list whose `default` counts.
 *
 * @throws {EngineError} `checkpoint_unsupported`: it is no template
 */
export function chatTemplateOf(checkpoint: Checkpoint): string | undefined {
  const config = JSON.parse(new TextDecoder().decode(checkpoint.tokenizerConfig));
  const field = v.safeParse(FieldSchema, config.chat_template);
  const [place, template] = checkpoint.chatTemplateFile !== undefined
    ? ["chat_template.jinja", checkpoint.chatTemplateFile]
    : ["tokenizer_config.json: chat_template", field.success ? defaultOf(field.output) : undefined];
  const fail = (fact: string, cause?: unknown) =>
    new EngineError(
      "checkpoint_unsupported",
      `${place}: ${fact}; correct it, or convert without it`,
      { param: "chat_template", cause },
    );
  if (checkpoint.chatTemplateFile === undefined && !field.success) {
    throw fail("must be a text or a list of names and templates");
  }
  if (!template) return undefined;
  try {
    compileTemplate(template);
  } catch (cause) {
    throw fail(messageOf(cause), cause);
  }
  return template;
}

function defaultOf(field: v.InferOutput<typeof FieldSchema>): string | undefined {
  if (!Array.isArray(field)) return field ?? undefined;
  return field.find(({ name }) => name === "default")?.template;
}
