/** Conversations: checked, and rendered through a model's own chat template. */
import * as v from "valibot";
import { EngineError, messageOf } from "./errors.ts";
import { guardsOf } from "./guard.ts";
import type { Manifest } from "./manifest.ts";
import { compileTemplate, TEMPLATE_GLOBALS, TemplateException } from "./jinja.ts";
import type { TextCodec } from "./tokenizer.ts";

const ROLES = ["system", "user", "assistant", "tool"] as const;

const text = v.string("must be a string");
const objects: v.GenericSchema<readonly Readonly<Record<string, unknown>>[]> = v.array(
  v.record(v.string(), v.unknown(), "must be an object"),
  "must be a list of objects",
);

/** Names are those of the templates, hence the underscores. */
const MessageSchema = v.strictObject({
  role: v.picklist(ROLES, `must be one of ${ROLES.join(", ")}`),
  content: text,
  /** Of the speaker, or of the tool that answers. */
  name: v.optional(text),
  /** What an assistant thought before it answered, for templates that show it. */
  reasoning_content: v.optional(text),
  /** What an assistant called, in the form that the template expects. */
  tool_calls: v.optional(objects),
  /** The call that a tool answers. */
  tool_call_id: v.optional(text),
}, "must be an object");

/** A conversation and how it is rendered; unknown fields are errors. */
export const chatEntries = {
  /** Oldest turn first. */
  messages: v.pipe(
    v.array(MessageSchema, "must be a list of messages"),
    v.minLength(1, "must hold at least one message"),
  ),
  /** Descriptions of the tools that the model may call: usually JSON schemas, see the model's card. */
  tools: v.optional(objects),
  /** Whether the text ends where the assistant's turn begins; true unless set. */
  addGenerationPrompt: v.optional(v.boolean("must be true or false"), true),
  /** Further variables of the template, such as `enable_thinking`. */
  templateOptions: v.optional(
    v.record(v.string(), v.unknown(), "must be an object"),
    {},
  ),
} as const;

const ChatSchema = v.strictObject(chatEntries);

/** One turn of a conversation. */
export type ChatMessage = Readonly<v.InferInput<typeof MessageSchema>>;
/** How a conversation is rendered. */
export type ChatOptions = Readonly<Omit<v.InferInput<typeof ChatSchema>, "messages">>;

/** A rendered conversation, in which a stand-in keeps the place of whatever must not be read as a special token. */
interface RenderedChat {
  readonly text: string;
  /** Puts what they stand for in the place of the stand-ins. */
  restore(text: string): string;
}

/** Renders conversations through one template. */
type ChatRenderer = (messages: readonly ChatMessage[], options?: ChatOptions) => RenderedChat;

/**
 * Makes conversations token ids through a model's own template. See `Engine.encodeChat`.
 *
 * @throws {EngineError} `invalid_request`: the model has no template; `bundle_invalid`: it is none. The encoder throws
 * `invalid_request` | `context_exceeded`
 */
export function chatEncoder(
  manifest: Manifest,
  codec: TextCodec,
): (messages: readonly ChatMessage[], options?: ChatOptions) => number[] {
  const { chatTemplate, architecture: { contextLength } } = manifest;
  const param = "messages";
  if (chatTemplate === undefined) {
    const fact = "this model has no chat template; use stream()";
    throw new EngineError("invalid_request", fact, { param });
  }
  const render = compileChat(chatTemplate, codec);
  const tooLong = (size: string) =>
    new EngineError(
      "context_exceeded",
      `the messages have ${size}; the context holds ${contextLength} tokens`,
      { param },
    );
  return (messages, options) => {
    const { text, restore } = render(messages, options);
    const { length } = restore(text);
    if (length > contextLength * codec.longestToken) throw tooLong(`${length} characters`);
    const ids = codec.encodeWithSpecials(text, restore);
    if (ids.length === 0) throw invalid(param, "the chat template makes an empty prompt of them");
    if (ids.length >= contextLength) throw tooLong(`${ids.length} tokens`);
    return ids;
  };
}

/** Variables of every template that {@link ChatOptions} sets by other names. */
const FIXED = ["messages", "tools", "add_generation_prompt"];

/**
 * Compiles a chat template.
 *
 * @throws {EngineError} `bundle_invalid` in the call; the renderer throws `invalid_request`
 */
function compileChat(
  template: string,
  tokens: Pick<TextCodec, "specialTokens" | "namedTokens">,
): ChatRenderer {
  let render: ReturnType<typeof compileTemplate>;
  try {
    render = compileTemplate(template);
  } catch (cause) {
    throw new EngineError("bundle_invalid", `the chat template: ${messageOf(cause)}`, {
      param: "chatTemplate",
      cause,
    });
  }
  const named = Object.values(tokens.namedTokens);
  const guards = guardsOf(tokens.specialTokens, [template, ...named].join(""));
  const taken = [...FIXED, ...TEMPLATE_GLOBALS, ...Object.keys(tokens.namedTokens)];
  return (messages, options = {}) => {
    const given = parseChat({ ...options, messages });
    const name = Object.keys(given.templateOptions).find((name) => taken.includes(name));
    if (name !== undefined) throw invalid(`templateOptions.${name}`, "is set by the engine");
    const { guard, restore } = guards();
    const variables = {
      documents: null,
      ...guard(given.templateOptions, "templateOptions"),
      ...tokens.namedTokens,
      messages: given.messages.map(({ role, ...rest }, i) => {
        return { role, ...guard(rest, `messages.${i}`) };
      }),
      tools: guard(given.tools ?? null, "tools"), // null: templates ask `is not none`
      add_generation_prompt: given.addGenerationPrompt,
    };
    try {
      return { text: render(variables), restore };
    } catch (cause) {
      const fact = restore(messageOf(cause));
      throw cause instanceof TemplateException
        ? new EngineError("invalid_request", fact, { param: "messages", cause })
        : invalid("messages", `the model's chat template cannot render them: ${fact}`, cause);
    }
  };
}

/**
 * The text that a chat template makes of a conversation, as transformers' `apply_chat_template` would without tokenizing.
 *
 * @param template Jinja source, as in a checkpoint's chat_template.jinja
 * @param messages the conversation, oldest turn first
 * @param options.namedTokens texts of `bos_token` and its like, where the template writes them
 * @throws {EngineError} `invalid_request`: a message or option at fault, or what the template refuses through
 * `raise_exception`; `bundle_invalid`: no template
 *
 * @example
 * ```ts
 * import { renderChat } from "./chat.ts";
 * const template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}" +
 *   "{% if add_generation_prompt %}<|assistant|>{% endif %}";
 * const text = renderChat(template, [{ role: "user", content: "Hello" }]);
 * if (text !== "<|user|>Hello\n<|assistant|>") throw new Error(text);
 * ```
 */
export function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  options: ChatOptions & { readonly namedTokens?: Readonly<Record<string, string>> } = {},
): string {
  const { namedTokens = {}, ...rest } = options;
  const render = compileChat(template, { specialTokens: [], namedTokens });
  const { text, restore } = render(messages, rest);
  return restore(text);
}

function parseChat(json: unknown): v.InferOutput<typeof ChatSchema> {
  const result = v.safeParse(ChatSchema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const param = v.getDotPath(issue) ?? "messages";
  if (issue.type !== "strict_object" || issue.expected === "Object") {
    throw invalid(param, issue.message);
  }
  if (issue.expected !== "never") throw invalid(param, "is required");
  const { entries } = param.startsWith("messages.") ? MessageSchema : ChatSchema;
  throw invalid(param, `is unknown; known are ${Object.keys(entries).join(", ")}`);
}

function invalid(param: string, fact: string, cause?: unknown): EngineError {
  return new EngineError("invalid_request", `${param}: ${fact}`, { param, cause });
}
