// @ts-check
/** The page: asks for generations, one at a time, and hands their frames to the output. */
import { base, connect } from "./connection.js";
import { byId, copyButton, stillness } from "./dom.js";
import { curlLine, Form } from "./form.js";
import { Output } from "./output.js";
import { fetchModel, ServerStatus } from "./server_status.js";
import { duration, showProgress, showResult } from "./stats.js";
import { Trajectory } from "./trajectory.js";

/**
 * @typedef {object} Run
 * @property {string} id
 * @property {import("./form.js").Request} request
 * @property {Trajectory} trajectory
 * @property {number} askedAt
 * @property {boolean} started whether the server has taken it
 */

/** The generation under way. @type {Run | undefined} */
let running;
let runs = 0;

const form = new Form({ onGenerate: generate, onCancel: cancel });
const output = new Output((trajectory) => {
  if (running !== undefined) showProgress(trajectory, performance.now() - running.askedAt);
});
const server = new ServerStatus();
const connection = connect({
  onFrame: receive,
  onState(state) {
    server.show(state);
    if (state.type === "open") loadModel();
    if (state.type === "away" && running !== undefined) {
      finish("The connection was lost. What had arrived is kept.");
    }
  },
});
byId("retry").addEventListener("click", () => connection.retry());
copyButton(byId("copy-link"), () => form.link().href);
copyButton(byId("copy-curl"), () => curlLine(new URL("v1/generate", base()), form.read()));

function generate() {
  if (running !== undefined) return;
  form.clearErrors();
  const request = form.read();
  const id = `page-${++runs}`;
  if (!connection.send({ type: "generate", id, ...request })) {
    connection.retry();
    return say("Not sent: the server is away.");
  }
  const trajectory = new Trajectory(request.prompt, request.suffix);
  running = { id, request, trajectory, askedAt: performance.now(), started: false };
  form.setBusy(true);
  form.offerSeed(undefined);
  form.remember();
  say("Reading the prompt…");
}

function cancel() {
  if (running === undefined) return;
  connection.send({ type: "cancel", id: running.id });
  finish(`Cancelled after ${duration(performance.now() - running.askedAt)}.`);
}

/** Takes a frame of the server. @param {any} frame */
function receive(frame) {
  if (running === undefined || frame.id !== running.id) {
    // Late frames of what was cancelled need no answer; an error without an id has no other place.
    if (frame.type === "error" && frame.id === undefined) form.showError(frame.message);
    return;
  }
  const { trajectory } = running;
  const at = performance.now() - running.askedAt;
  switch (frame.type) {
    case "start":
      running.started = true;
      trajectory.start(frame);
      output.follow(trajectory);
      return bringIntoView();
    case "draft":
    case "commit":
      if (trajectory.firstFrameMs === undefined) say("Denoising…");
      if (frame.type === "draft") trajectory.draft(frame, at);
      else trajectory.commit(frame, at);
      return output.update();
    case "end": {
      trajectory.end(frame);
      const { usage, timings, finish_reason } = frame;
      const tokens = `${usage.completion_tokens} tokens in ${duration(timings.total_ms)}`;
      const why = finish_reason === "stop" ? "the text ended" : "the token limit was reached";
      finish(`Finished: ${tokens}; ${why}.`);
      return showResult(trajectory, frame);
    }
    case "error":
      form.showError(frame.message, frame.param);
      return finish(running.started ? "The generation failed." : "Not generated.");
  }
}

/** @param {string} message */
function finish(message) {
  if (running === undefined) return;
  const { trajectory, request, askedAt, started } = running;
  running = undefined;
  form.setBusy(false);
  say(message);
  if (!started) return;
  form.offerSeed(request);
  showProgress(trajectory, performance.now() - askedAt, { last: true });
  output.finish();
}

/** Where the output lies below the form, one would have to look for it. */
function bringIntoView() {
  if (!matchMedia("(max-width: 899px)").matches) return;
  byId("stage").scrollIntoView({ behavior: stillness.matches ? "auto" : "smooth" });
}

/** Asks which model it is, each time that the server comes back. */
async function loadModel() {
  try {
    const model = await fetchModel();
    form.setModel(model);
    server.showModel(model);
    if (runs === 0) say("Ready.");
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    form.showError(`The facts of the model could not be read: ${why}`);
  }
}

/** Tells how things stand; read aloud, so only starts and ends. @param {string} message */
function say(message) {
  byId("status").textContent = message;
}
