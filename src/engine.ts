/** Engine: loads a model and denoises for many callers at once over one ModelSession. */
import { type BackendName, BACKENDS } from "./backend/backend.ts";
import { chatEncoder, type ChatMessage, type ChatOptions } from "./chat.ts";
import { EngineError } from "./errors.ts";
import type { EndFrame, Frame } from "./frame.ts";
import { type Bundle, loadBundle, type LoadProgress } from "./loader.ts";
import type { Manifest } from "./manifest.ts";
import { type GenerateOptions, resolveOptions } from "./options.ts";
import { randomFrom } from "./random.ts";
import { openRemoteSession } from "./remote_session.ts";
import { Scheduler } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";
import { type ModelSession, openSession } from "./session.ts";
import { loadTokenizer, type TextCodec } from "./tokenizer.ts";

/** How an engine is loaded. */
export interface EngineOptions {
  /** `auto`: WebGPU where there is a hardware adapter, else WebAssembly. */
  readonly backend?: "auto" | BackendName;
  /** Threads of a CPU backend; as many as the machine has, up to 4, unless set. */
  readonly threads?: number;
  /** Run the model in a Worker, so that this thread's event loop stays free. On where Workers exist. */
  readonly worker?: boolean;
  /** Sequences under way at once. */
  readonly slots?: number;
  /** Requests that may wait for their turn. */
  readonly waiting?: number;
  /** Folder for downloaded bundles. */
  readonly cacheDir?: string;
  readonly onProgress?: (progress: LoadProgress) => void;
}

/** A generation's options and the signal that ends it. */
export type RunOptions = GenerateOptions & {
  readonly signal?: AbortSignal;
  /** Uniform numbers in [0, 1) in place of those that `seed` gives. */
  readonly random?: () => number;
};

/** {@link RunOptions} of a conversation, which has no suffix, and how it is rendered. */
export type ChatRunOptions = Omit<RunOptions, "suffix"> & ChatOptions;

/** What the engine is busy with. */
export interface EngineLoad {
  readonly running: number;
  readonly waiting: number;
  readonly free: number;
}

/** A loaded model. One loop owns all of its state; every method may be called at any time. */
export class Engine {
  #scheduler: Scheduler;
  #wake: (() => void) | undefined;
  #closed = false;
  /** made by the first encodeChat() */
  #encodeChat: ReturnType<typeof chatEncoder> | undefined;
  #loop: Promise<void>;

  /** For tests and embedders with a session of their own; others call {@link loadEngine}. */
  constructor(
    readonly manifest: Manifest,
    readonly codec: TextCodec,
    readonly session: ModelSession,
    options: { readonly slots?: number; readonly waiting?: number } = {},
  ) {
    this.#scheduler = new Scheduler({
      slots: options.slots ?? 8,
      waiting: options.waiting ?? 64,
      batch: session.batch,
    }, (slot) => void session.release(slot).catch(() => {})); // a dead session fails the next pass
    this.#loop = this.#run();
  }

  /** How many sequences run and wait now. */
  get load(): EngineLoad {
    return this.#scheduler.load;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Whether the model is lost (its Worker died): every further generation fails. */
  get failed(): boolean {
    return this.session.failed ?? false;
  }

  /**
   * Denoises behind the token ids of a prompt and yields frames as blocks crystallise.
   *
   * Rejections happen in the call itself; the generator throws what happens later. Leaving the generator, or aborting
   * `options.signal`, ends the work within one forward pass.
   *
   * @param prompt token ids, special ones allowed
   * @throws {EngineError} `invalid_request` | `context_exceeded` | `queue_full` | `engine_closed`
   */
  denoise(prompt: readonly number[], options: RunOptions = {}): AsyncGenerator<Frame> {
    const { signal, random, ...generate } = options;
    if (this.#closed) throw new EngineError("engine_closed", "the engine is closed");
    const { vocabSize } = this.manifest.architecture;
    const alien = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (alien !== undefined || prompt.length === 0) {
      const fact = prompt.length === 0 ? "is empty" : `holds the id ${alien}`;
      throw new EngineError(
        "invalid_request",
        `prompt: ${fact}; ids go from 0 to ${vocabSize - 1}`,
        {
          param: "prompt",
        },
      );
    }
    const { mask } = this.manifest.tokens;
    const resolved = resolveOptions(generate, this.manifest, {
      promptTokens: prompt.length,
      holes: prompt.filter((id) => id === mask).length,
      randomSeed: crypto.getRandomValues(new Uint32Array(1))[0],
    });
    const sequence = new Sequence(
      prompt,
      resolved,
      this.manifest,
      this.codec,
      random ?? randomFrom(resolved.seed),
    );
    this.#scheduler.add(sequence);
    this.#wake?.();
    const leave = () => {
      sequence.abort(new EngineError("cancelled", "the generation was cancelled"));
      this.#wake?.();
    };
    signal?.addEventListener("abort", leave); // now, not at the first read: it may never come
    if (signal?.aborted) leave();
    return this.#read(sequence, () => {
      signal?.removeEventListener("abort", leave);
      leave(); // no effect where it has ended
    });
  }

  /**
   * Writes behind a text, or between it and `options.suffix`.
   *
   * @throws {EngineError} as {@link Engine.denoise}
   */
  stream(prompt: string, options: RunOptions = {}): AsyncGenerator<Frame> {
    return this.denoise(this.encodePrompt(prompt, options.suffix), options);
  }

  /**
   * Writes behind a text and resolves to the end frame: text, finish reason, usage, timings.
   *
   * @throws {EngineError} as {@link Engine.denoise}, and `cancelled` | `backend_failed`
   */
  async generate(prompt: string, options: RunOptions = {}): Promise<EndFrame> {
    for await (const frame of this.stream(prompt, options)) {
      if (frame.type === "end") return frame;
    }
    throw new EngineError("backend_failed", "the generation ended without an end frame");
  }

  /**
   * Writes the next turn of a conversation, which the model's own chat template makes a prompt of.
   *
   * @throws {EngineError} as {@link Engine.denoise} and {@link Engine.encodeChat}
   *
   * @example
   * ```ts
   * import { loadBundle, loadEngine } from "./mod.ts";
   * const bundle = await loadBundle(new URL("../models/tiny/", import.meta.url));
   * // This model came without a template; one from a checkpoint is in the manifest already.
   * const chatTemplate = "{% for m in messages %}// {{ m.content }}\\n{% endfor %}function ";
   * const manifest = { ...bundle.manifest, chatTemplate };
   * await using engine = await loadEngine({ ...bundle, manifest });
   * const messages = [{ role: "user", content: "Tells whether a value is a string." }] as const;
   * for await (const frame of engine.chat(messages, { maxTokens: 16 })) {
   *   if (frame.type === "end" && frame.text === "") throw new Error("no text");
   * }
   * ```
   */
  chat(messages: readonly ChatMessage[], options: ChatRunOptions = {}): AsyncGenerator<Frame> {
    const { tools, addGenerationPrompt, templateOptions, ...run } = options;
    const fact = "suffix: a conversation has none";
    if ("suffix" in run) throw new EngineError("invalid_request", fact, { param: "suffix" });
    const prompt = this.encodeChat(messages, { tools, addGenerationPrompt, templateOptions });
    return this.denoise(prompt, run);
  }

  /**
   * The token ids of a conversation: special tokens where the template writes them, never where a message, a tool or an
   * option does. None is added in front, since templates write the token that opens a prompt.
   *
   * @throws {EngineError} `invalid_request`, also for a model without a template; `context_exceeded`
   */
  encodeChat(messages: readonly ChatMessage[], options: ChatOptions = {}): number[] {
    this.#encodeChat ??= chatEncoder(this.manifest, this.codec);
    return this.#encodeChat(messages, options);
  }

  /** The token ids of a prompt: text that looks like a special token stays text. */
  encodePrompt(prompt: string, suffix?: string): number[] {
    const { tokens, infill, architecture: { contextLength } } = this.manifest;
    const characters = prompt.length + (suffix?.length ?? 0);
    if (characters > contextLength * this.codec.longestToken) {
      throw new EngineError( // before encoding: a very long text would hold up everyone
        "context_exceeded",
        `the prompt has ${characters} characters; the context holds ${contextLength} tokens`,
        { param: "prompt" },
      );
    }
    if (prompt.length === 0 && !suffix) {
      throw new EngineError("invalid_request", "prompt: must not be empty", { param: "prompt" });
    }
    const bos = tokens.bos === undefined ? [] : [tokens.bos];
    if (suffix === undefined) return [...bos, ...this.codec.encode(prompt)];
    if (infill === undefined) {
      throw new EngineError("invalid_request", "suffix: this model was not trained to fill in", {
        param: "suffix",
      });
    }
    return [
      ...bos,
      infill.prefix,
      ...this.codec.encode(prompt),
      infill.suffix,
      ...this.codec.encode(suffix),
      infill.middle,
    ];
  }

  /** Ends every generation with `engine_closed` and frees the model. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const reason = new EngineError("engine_closed", "the engine was closed");
    for (const sequence of this.#scheduler.all()) sequence.abort(reason);
    this.#wake?.();
    await this.#loop;
    await this.session.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** The one loop that moves every sequence. */
  async #run(): Promise<void> {
    while (!this.#closed) {
      const sequences = this.#scheduler.next();
      if (sequences.length === 0) {
        await new Promise<void>((resolve) => this.#wake = resolve);
        this.#wake = undefined;
        continue;
      }
      const inputs = sequences.map((sequence) => sequence.input);
      try {
        const candidates = await this.session.forward(inputs);
        sequences.forEach((sequence, i) => sequence.advance(candidates[i]));
      } catch (error) {
        for (const sequence of sequences) sequence.abort(error);
      }
    } // the next turn settles what ended in this one
    this.#scheduler.settle();
  }

  async *#read(sequence: Sequence, leave: () => void): AsyncGenerator<Frame> {
    try {
      yield* sequence.frames.read();
    } finally {
      leave();
    }
  }
}

/**
 * Loads a bundle and opens the first backend that this machine has.
 *
 * @param source folder or URL of a bundle (model.json, weights, tokenizer), or a loaded bundle
 * @throws {EngineError} `bundle_invalid` | `backend_unavailable` | `backend_failed`
 *
 * @example
 * ```ts
 * import { loadEngine } from "./mod.ts";
 * await using engine = await loadEngine(new URL("../models/tiny/", import.meta.url));
 * const { text } = await engine.generate("function isString(", { maxTokens: 24 });
 * if (typeof text !== "string") throw new Error("no text");
 * ```
 */
export async function loadEngine(
  source: string | URL | Bundle,
  options: EngineOptions = {},
): Promise<Engine> {
  const loadedHere = typeof source === "string" || source instanceof URL;
  const bundle = loadedHere
    ? await loadBundle(source, { onProgress: options.onProgress, cacheDir: options.cacheDir })
    : source;
  const backend = options.backend ?? "auto";
  if (backend !== "auto" && !BACKENDS.includes(backend)) {
    throw new EngineError(
      "invalid_request",
      `backend: ${backend} is not one of auto, ${BACKENDS.join(", ")}`,
      { param: "backend" },
    );
  }
  const cores = globalThis.navigator?.hardwareConcurrency ?? 1;
  const plan = {
    manifest: bundle.manifest,
    weights: bundle.weights,
    backends: backend === "auto" ? ["webgpu", "wasm"] as const : [backend],
    options: {
      threads: options.threads ?? Math.min(4, cores),
      softwareAdapter: backend === "webgpu",
    },
  };
  const codec = loadTokenizer(bundle.tokenizerJson, bundle.tokenizerConfig);
  const inWorker = options.worker ?? typeof Worker !== "undefined";
  const session = await (inWorker
    ? openRemoteSession(plan, { handOver: loadedHere }) // a caller's bundle stays whole
    : openSession(plan));
  return new Engine(bundle.manifest, codec, session, options);
}
