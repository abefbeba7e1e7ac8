/**
 * Cinnabar: denoise diffusion language models, block by block, from TypeScript.
 *
 * @module
 */
export { chatEntries, type ChatMessage, type ChatOptions, renderChat } from "./chat.ts";
export {
  type ChatRunOptions,
  Engine,
  type EngineLoad,
  type EngineOptions,
  loadEngine,
  type RunOptions,
} from "./engine.ts";
export { EngineError, type EngineErrorCode } from "./errors.ts";
export type {
  CommitFrame,
  DraftFrame,
  EndFrame,
  FinishReason,
  Frame,
  FrameToken,
  StartFrame,
  Timings,
  TokenState,
  Usage,
} from "./frame.ts";
export { type Bundle, loadBundle, type LoadProgress } from "./loader.ts";
export type { Architecture, Manifest } from "./manifest.ts";
export {
  TRANSFER_SCHEDULES,
  type TransferScheduleName,
  UNMASKING,
  type Unmasking,
} from "./decoding.ts";
export {
  APPROXIMATE_CACHES,
  type ApproximateCache,
  type GenerateOptions,
  optionEntries,
} from "./options.ts";
export type { ModelSession } from "./session.ts";
export { loadTokenizer, type TextCodec, type TextStream } from "./tokenizer.ts";
export { type BackendName, BACKENDS } from "./backend/backend.ts";
