// @ts-check
/** Trajectory: all frames of one generation, kept so that it can be looked at again. Pure data, written by page.js alone. */

/**
 * @typedef {readonly [text: string, state: "given" | "masked" | "unmasked", confidence: number]} Token
 *
 * @typedef {object} Block one block as it is at some frame
 * @property {readonly Token[]} tokens
 * @property {boolean} done
 *
 * @typedef {object} Moment one frame
 * @property {number} block
 * @property {number} step denoising steps that the block had taken
 * @property {readonly Token[]} tokens
 * @property {boolean} done
 * @property {number} at milliseconds since the generation was asked for
 * @property {number} accepted tokens that this frame was the first to show
 * @property {number} confidence their mean confidence
 */

/** Tokens over all recorded frames: about 100 MB at most. Past it only commits are recorded. */
const MOST_RECORDED = 500_000;

export class Trajectory {
  /** @type {Moment[]} */
  moments = [];
  /** Newest state of each block. @type {Block[]} */
  blocks = [];
  /** Step at which each position of each block was first seen unmasked. @type {number[][]} */
  settled = [];
  /** Steps of each block so far. @type {number[]} */
  steps = [];
  /** Output of all committed blocks. */
  text = "";
  /** Tokens unmasked so far. */
  written = 0;
  /** @type {number | undefined} */
  firstFrameMs;
  /** @type {number} */
  blockLength = 0;
  promptTokens = 0;

  #recorded = 0;

  /**
   * @param {string} prompt
   * @param {string} [suffix]
   */
  constructor(prompt, suffix) {
    this.prompt = prompt;
    this.suffix = suffix;
  }

  /** Forward passes as far as frames tell; the end frame knows better. */
  get passes() {
    return this.steps.reduce((sum, steps) => sum + steps, 0);
  }

  /** @param {{ block_length: number, prompt_tokens: number }} frame */
  start(frame) {
    this.blockLength = frame.block_length;
    this.promptTokens = frame.prompt_tokens;
  }

  /**
   * @param {{ block: number, step: number, tokens: Token[] }} frame
   * @param {number} at
   */
  draft({ block, step, tokens }, at) {
    this.#add(block, step, tokens, false, at);
  }

  /**
   * A block's last step arrives as its commit, without a number.
   *
   * @param {{ block: number, tokens: Token[], text: string }} frame
   * @param {number} at
   */
  commit({ block, tokens, text }, at) {
    this.text += text;
    this.#add(block, (this.steps[block] ?? 0) + 1, tokens, true, at);
  }

  /**
   * Makes the tokens say exactly the final text. They differ where a stop text cut the output, or a character came late:
   * from there on the first token that differs holds all the rest.
   *
   * @param {{ text: string }} frame
   */
  end({ text }) {
    this.text = text;
    let at = 0, cut = false;
    /** @type {[block: number, position: number] | undefined} */
    let last;
    for (const [number, { tokens }] of this.blocks.entries()) {
      for (const [position, [shown, state]] of tokens.entries()) {
        if (state !== "unmasked") continue;
        if (cut) {
          this.#retell(number, position, "");
        } else if (text.startsWith(shown, at)) {
          at += shown.length;
          last = [number, position];
        } else {
          this.#retell(number, position, text.slice(at));
          at = text.length;
          cut = true;
        }
      }
    }
    if (at < text.length && last !== undefined) {
      const [number, position] = last;
      this.#retell(number, position, this.blocks[number].tokens[position][0] + text.slice(at));
    }
  }

  /**
   * The blocks as they were at one moment.
   *
   * @param {number} index
   * @returns {Block[]}
   */
  at(index) {
    const moment = this.moments[index];
    return [...this.blocks.slice(0, moment.block), { tokens: moment.tokens, done: moment.done }];
  }

  /**
   * @param {number} block
   * @param {number} step
   * @param {readonly Token[]} tokens
   * @param {boolean} done
   * @param {number} at
   */
  #add(block, step, tokens, done, at) {
    this.firstFrameMs ??= at;
    this.steps[block] = step;
    const settled = this.settled[block] ??= [];
    let accepted = 0, confidence = 0;
    for (const [position, token] of tokens.entries()) {
      if (token[1] !== "unmasked" || settled[position] !== undefined) continue;
      settled[position] = step;
      accepted++;
      confidence += token[2];
    }
    this.written += accepted;
    this.blocks[block] = { tokens, done };
    this.#recorded += tokens.length;
    if (!done && this.#recorded > MOST_RECORDED) return;
    confidence /= Math.max(1, accepted);
    this.moments.push({ block, step, tokens, done, at, accepted, confidence });
  }

  /**
   * Gives one token another text, in its block and in the commit that is its last moment.
   *
   * @param {number} block
   * @param {number} position
   * @param {string} text
   */
  #retell(block, position, text) {
    const { tokens, done } = this.blocks[block];
    if (tokens[position][0] === text) return;
    const retold = tokens.with(position, [text, tokens[position][1], tokens[position][2]]);
    this.blocks[block] = { tokens: retold, done };
    const moment = this.moments.findLast((moment) => moment.block === block && moment.done);
    if (moment !== undefined) moment.tokens = retold;
  }
}
